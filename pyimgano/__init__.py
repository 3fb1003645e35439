"""Visual anomaly detection for industrial inspection, as scikit-learn estimators.

Public names load on first use, so that ``import pyimgano`` costs next to nothing and
pulls in neither torch nor pyod nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pyimgano._moved import OLD_SUBPACKAGES, install_finder
from pyimgano._version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors see; at run time names load on first use
    from pyimgano.benchmark import run_benchmark as run_benchmark
    from pyimgano.calibration import ThresholdCalibrator as ThresholdCalibrator
    from pyimgano.detectors import AnomalyDINODetector as AnomalyDINODetector
    from pyimgano.detectors import PatchCoreDetector as PatchCoreDetector
    from pyimgano.detectors import PyODDetector as PyODDetector
    from pyimgano.ensemble import ScoreEnsemble as ScoreEnsemble
    from pyimgano.inference import anomaly_map as anomaly_map
    from pyimgano.inputs import ImageFormat as ImageFormat
    from pyimgano.inputs import ImageFormatNormalizer as ImageFormatNormalizer
    from pyimgano.inputs import ImageSequence as ImageSequence
    from pyimgano.interop import as_pyod as as_pyod
    from pyimgano.persistence import load as load
    from pyimgano.persistence import save as save
    from pyimgano.registry import create_model as create_model
    from pyimgano.registry import list_models as list_models
    from pyimgano.registry import model_info as model_info
    from pyimgano.registry import register_model as register_model
    from pyimgano.tiling import TilingTransformer as TilingTransformer
    from pyimgano.utils import show_versions as show_versions

install_finder()

# name -> the module that defines it
_PUBLIC = {
    "AnomalyDINODetector": "pyimgano.detectors",
    "ImageFormat": "pyimgano.inputs",
    "ImageFormatNormalizer": "pyimgano.inputs",
    "ImageSequence": "pyimgano.inputs",
    "PatchCoreDetector": "pyimgano.detectors",
    "PyODDetector": "pyimgano.detectors",
    "ScoreEnsemble": "pyimgano.ensemble",
    "ThresholdCalibrator": "pyimgano.calibration",
    "TilingTransformer": "pyimgano.tiling",
    "anomaly_map": "pyimgano.inference",
    "as_pyod": "pyimgano.interop",
    "create_model": "pyimgano.registry",
    "list_models": "pyimgano.registry",
    "load": "pyimgano.persistence",
    "model_info": "pyimgano.registry",
    "register_model": "pyimgano.registry",
    "run_benchmark": "pyimgano.benchmark",
    "save": "pyimgano.persistence",
    "show_versions": "pyimgano.utils",
}
_SUBPACKAGES = (
    "backbones",
    "benchmark",
    "calibration",
    "cleaning",
    "datasets",
    "defects",
    "detectors",
    "ensemble",
    "evaluation",
    "exceptions",
    "export",
    "features",
    "grids",
    "inference",
    "inputs",
    "interop",
    "model_selection",
    "monitoring",
    "persistence",
    "preprocessing",
    "recipes",
    "registry",
    "reporting",
    "robustness",
    "synthesis",
    "testing",
    "tiling",
    "utils",
)

__all__ = sorted(["__version__", *_PUBLIC, *_SUBPACKAGES])


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _SUBPACKAGES or name in OLD_SUBPACKAGES:
        value = importlib.import_module(f"pyimgano.{name}")
    else:
        raise AttributeError(f"module 'pyimgano' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
