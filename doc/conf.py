"""How Sphinx builds the documentation: ``sphinx-build -W --keep-going doc doc/_build/html``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pyimgano

sys.path.insert(0, str(Path(__file__).parent))  # gallery, mathml

from gallery import check_pictures

project = "pyimgano"
author = "The pyimgano developers"
copyright = "The pyimgano developers"
release = pyimgano.__version__
version = ".".join(release.split(".")[:2])

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "literal"
highlight_language = "text"  # of literal blocks: commands and what they print

# Every cross-reference must lead somewhere: one to a name that is gone is a warning.
nitpicky = True
_elsewhere = r"(sklearn|numpy|scipy|joblib|pyod|torch|tempfile|pathlib|enum|builtins)\b.*"
nitpick_ignore_regex = [(r"py:.*", _elsewhere)]
# Nothing is fetched while building. Where the network may be used, the names of other projects
# become links: PYIMGANO_DOC_LINKS=1 sphinx-build ...
if os.environ.get("PYIMGANO_DOC_LINKS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
    }

# ---- API reference ----------------------------------------------------------------------
# A page per subpackage, with a table of what its __all__ holds, and a page for each of those:
# see _templates/autosummary. A new public name needs no line here.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # numpydoc's sections say the types, in words
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # the class template has the methods in full
numpydoc_validation_checks = {
    "GL03",  # blank lines
    "GL05",  # tabs
    "GL06",  # unknown section
    "GL07",  # order of the sections
    "GL08",  # no docstring at all
    "GL10",  # spelling of directives
    "SS01",  # no summary
    "SS02",  # summary without a capital
    "SS03",  # summary without a full stop
    "SS04",  # summary indented
    "SS06",  # summary of more than a line
    "PR01",  # parameters that are not described
    "PR02",  # descriptions of parameters that are not there
    "PR03",  # descriptions in another order
    "PR06",  # names of types that Python does not have
    "PR10",  # spacing around the colon
}
# Enum's constructor is Python's; names of its members are its values.
numpydoc_validation_exclude = {r"\.ImageFormat$", r"\.ImageFormat\."}

# ---- gallery ----------------------------------------------------------------------------
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "image_scrapers": ("matplotlib", "gallery.scrape"),
    "reset_modules": ("matplotlib", "gallery.make_warnings_errors"),
    "reset_modules_order": "both",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("pyimgano",),
    "within_subsection_order": "ExampleTitleSortKey",
    "capture_repr": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "only_warn_on_example_error": False,
}

# ---- pages ------------------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = f"pyimgano {release}"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pyimgano.css"]
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"index": [], "changelog": []}


def _skip(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn gives every estimator, and what Python gives lists and tuples."""
    owner = getattr(member, "__objclass__", None)
    if owner in (list, tuple) or type(member).__name__ == "_tuplegetter":
        return True
    if (getattr(member, "__module__", None) or "").startswith("sklearn."):
        return True
    # A property of PyODDetector that says that there is no such method.
    absent = isinstance(member, property) and name in ("anomaly_map", "score_and_map")
    return True if absent or name in ("why_not_images", "why_no_format") else None


def _names_are_no_lists(
    app: Any, what: str, name: str, member: Any, options: Any, lines: list[str]
) -> None:
    """Keep the initial of a reference's first author from becoming the number of a list item."""
    lines[:] = [re.sub(r"^(\s*\.\. \[[^\]]+\] )([A-Z]\. )", r"\1\\\2", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("build-finished", check_pictures)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _names_are_no_lists, priority=900)  # after numpydoc
