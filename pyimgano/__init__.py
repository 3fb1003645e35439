"""Visual anomaly detection for industrial inspection, as scikit-learn estimators.

Public names load on first use, so that ``import pyimgano`` costs next to nothing and
pulls in neither torch nor pyod nor matplotlib.
"""

from __future__ import annotations

import importlib

from pyimgano._version import __version__ as __version__

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
    "as_pyod": "pyimgano.detectors",
    "create_model": "pyimgano.models",
    "list_models": "pyimgano.models",
    "load": "pyimgano.delivery",
    "model_info": "pyimgano.models",
    "register_model": "pyimgano.models",
    "run_benchmark": "pyimgano.pipelines",
    "save": "pyimgano.delivery",
    "show_versions": "pyimgano.utils",
}
_SUBPACKAGES = (
    "calibration",
    "datasets",
    "delivery",
    "detectors",
    "ensemble",
    "evaluation",
    "exceptions",
    "features",
    "inference",
    "inputs",
    "model_selection",
    "models",
    "pipelines",
    "tiling",
    "utils",
)

__all__ = sorted(["__version__", *_PUBLIC, *_SUBPACKAGES])


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"pyimgano.{name}")
    else:
        raise AttributeError(f"module 'pyimgano' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
