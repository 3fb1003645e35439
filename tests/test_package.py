"""The package as a whole: what it exports, what importing it costs, its examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import pyimgano

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(pyimgano.__path__, prefix="pyimgano.")
    if not info.name.startswith("pyimgano.cli")
)
# Modules whose examples run a network.
NEEDS = {"pyimgano.features._backbone": "torch", "pyimgano.features._vit": "timm"}


def test_imports_load_nothing_that_is_not_needed():
    """Of the package, then of its main classes, then of every module: one process for the three."""
    code = """
        import importlib, pkgutil, sys

        def loaded(*names):
            print([one for one in names if one in sys.modules])

        import pyimgano
        loaded("numpy", "sklearn", "torch", "pyod", "matplotlib", "cv2")
        from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
        loaded(
            "torch", "timm", "onnxruntime", "pyod", "skimage", "matplotlib", "tqdm",
            "sklearn.ensemble", "sklearn.svm", "sklearn.linear_model", "sklearn.cluster",
            "pyimgano.datasets", "pyimgano.benchmark", "pyimgano.cli",
        )
        for info in pkgutil.walk_packages(pyimgano.__path__, prefix="pyimgano."):
            importlib.import_module(info.name)
        loaded("torch", "timm", "pyod", "skimage", "matplotlib")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["[]"] * 3


def test_no_window_of_opencv_is_asked_for():
    # opencv-python-headless, which has none, is to serve as well.
    windows = {
        "imshow",
        "namedWindow",
        "waitKey",
        "destroyAllWindows",
        "createTrackbar",
        "selectROI",
    }
    for path in Path(pyimgano.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not any(name in text for name in windows):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cv2":
                assert node.attr not in windows, f"{path}, line {node.lineno}"


def test_every_public_name_and_subpackage_is_there():
    for name in pyimgano.__all__:
        assert getattr(pyimgano, name) is not None
    public = {m.split(".")[1] for m in MODULES if not m.split(".")[1].startswith("_")}
    assert public - {"base"} == set(pyimgano._SUBPACKAGES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyimgano.nothing


# What mypy makes of them is in typed_names.py.
def test_type_checkers_see_the_names_that_load_on_first_use():
    tree = ast.parse(Path(pyimgano.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {line.names[0].asname: line.module for line in block.body}
    assert seen == pyimgano._PUBLIC


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    monkeypatch.chdir(tmp_path)
    # What an example registers is gone after.
    for table in ("pyimgano.registry._registered", "pyimgano.datasets._table._registered"):
        monkeypatch.setattr(table, {})
    runner = doctest.DocTestRunner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for docstring in doctest.DocTestFinder().find(importlib.import_module(name)):
            if docstring.examples:  # the runner sets a debugger up even where there are none
                runner.run(docstring)
    assert runner.summarize().failed == 0
