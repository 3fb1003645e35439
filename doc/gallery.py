"""How sphinx-gallery runs the examples: none may warn, and each must show something."""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sphinx.util import logging
from sphinx_gallery.scrapers import figure_rst

logger = logging.getLogger(__name__)
_filters = ExitStack()


def make_warnings_errors(gallery_conf: dict[str, Any], path: str, when: str) -> None:
    """Set the filters before each example, and put them back after it."""
    if when == "after":
        _filters.close()
        return
    _filters.enter_context(warnings.catch_warnings())
    warnings.simplefilter("error")
    # PyOD and what it stands on warn of their own future.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Move the PNG files that an example writes to where the gallery keeps its pictures."""
    paths = []
    for file in sorted(Path(block_vars["src_file"]).parent.glob("*.png")):
        paths.append(next(block_vars["image_path_iterator"]))
        Path(paths[-1]).write_bytes(file.read_bytes())
        file.unlink()
    return figure_rst(paths, gallery_conf["src_dir"])


def check_pictures(app: Any, error: Exception | None) -> None:
    """When all is built: each example that was run has a figure, or a picture that it wrote."""
    gallery = app.config.sphinx_gallery_conf
    if error is not None or not gallery["plot_gallery"]:
        return
    pictures = Path(app.srcdir) / "auto_examples" / "images"
    for example in sorted((Path(app.srcdir).parent / "examples").glob("plot_*.py")):
        if not re.search(gallery["filename_pattern"], str(example)):
            continue
        if not (pictures / f"sphx_glr_{example.stem}_001.png").exists():
            logger.warning("%s shows nothing: no figure and no PNG file", example)
            app.statuscode = 1
