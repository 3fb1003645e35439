"""A scraper for sphinx-gallery: takes in the PNG files that an example writes beside itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Move them to where the gallery keeps its pictures, and show them."""
    paths = []
    for file in sorted(Path(block_vars["src_file"]).parent.glob("*.png")):
        paths.append(next(block_vars["image_path_iterator"]))
        Path(paths[-1]).write_bytes(file.read_bytes())
        file.unlink()
    return figure_rst(paths, gallery_conf["src_dir"])
