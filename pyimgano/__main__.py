"""``python -m pyimgano``: the command ``pyimgano``."""

from __future__ import annotations

import sys

from pyimgano.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
