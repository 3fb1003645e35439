"""Print constraints on the lowest versions that setup.cfg admits, for ``pip install -c``.

    python .ci/lowest.py > constraints.txt

What the package needs, and what the tests of all but the networks need: ``numpy>=1.22`` becomes
``numpy==1.22``. A requirement without a lowest version is left to pip, and so are other extras.
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*>=\s*(?P<version>[0-9][0-9.]*)")


def main() -> None:
    setup = configparser.ConfigParser()
    setup.read_string(SETUP.read_text(encoding="utf-8"))
    lines = setup["options"]["install_requires"], setup["options.extras_require"]["test-core"]
    for line in "\n".join(lines).splitlines():
        if bound := BOUND.match(line.strip()):
            sys.stdout.write(f"{bound['name']}=={bound['version']}\n")


if __name__ == "__main__":
    main()
