"""Names of earlier versions: they go on working for one release.

Code that imports a public name from its old place gets it, with a ``FutureWarning`` that says
where it is now. Files saved by earlier versions name private modules too; those are found
without a warning, since loading such a file is nothing the user could do differently.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["OLD_SUBPACKAGES", "current_name", "former_places", "install_finder", "moved_names"]

# Old module -> where its names are now, the first that has one.
_PUBLIC_MODULES: dict[str, tuple[str, ...]] = {
    "pyimgano.delivery": (
        "pyimgano.persistence",
        "pyimgano.reporting",
        "pyimgano.benchmark",
        "pyimgano.utils",
    ),
    "pyimgano.models": ("pyimgano.registry",),
    "pyimgano.pipelines": ("pyimgano.benchmark",),
    "pyimgano.utils.estimator_checks": ("pyimgano.testing",),
}
# Modules that only saved files name.
_PRIVATE_MODULES: dict[str, tuple[str, ...]] = {
    "pyimgano.detectors._coreset": ("pyimgano._kernels.coreset",),
    "pyimgano.detectors._neighbors": ("pyimgano._kernels.neighbors",),
    "pyimgano.detectors._pixel_templates": ("pyimgano.detectors.templates._pixel",),
    "pyimgano.detectors._template_base": ("pyimgano.detectors.templates._base",),
    "pyimgano.detectors._window_templates": ("pyimgano.detectors.templates._window",),
    "pyimgano.features._grids": ("pyimgano.grids",),
    "pyimgano.features._torch": ("pyimgano.features._backbone",),
}
# Names that were attributes of the package.
OLD_SUBPACKAGES = ("delivery", "models", "pipelines")
_MODULES = {**_PUBLIC_MODULES, **_PRIVATE_MODULES}
# Single names, as saved files have them, that moved or changed while their module stayed.
_NAMES = {
    ("pyimgano.calibration", "ThresholdCalibrator"): (
        "pyimgano.calibration._calibrator",
        "ThresholdCalibrator",
    ),
    ("pyimgano.detectors._pyod", "PyODView"): ("pyimgano.interop", "PyODView"),
    ("pyimgano.features._torch", "TorchPatchFeatures"): (
        "pyimgano.features._backbone",
        "BackbonePatchFeatures",
    ),
}


def current_name(module: str, name: str) -> tuple[str, str]:
    """Find out where something is now that an earlier version kept elsewhere.

    Parameters
    ----------
    module, name : str
        As an earlier version, or a file that it saved, has them.

    Returns
    -------
    module, name : str
        The same two if nothing has moved.
    """
    if (module, name) in _NAMES:
        return _NAMES[module, name]
    for candidate in _MODULES.get(module, ()):
        if hasattr(importlib.import_module(candidate), name):
            return candidate, name
    return module, name


def former_places(module: str, name: str) -> list[tuple[str, str]]:
    """List where something may be now, without importing or looking up anything.

    Parameters
    ----------
    module, name : str
        As a file of any version has them.

    Returns
    -------
    list of (module, name)
        The place in the file first.
    """
    places = [(module, name)]
    if (module, name) in _NAMES:
        places.append(_NAMES[module, name])
    places += [(candidate, name) for candidate in _MODULES.get(module, ())]
    return places


def moved_names(module: str, names: dict[str, tuple[str, str]]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module that some names have left.

    Parameters
    ----------
    module : str
        ``__name__`` of the module.
    names : dict of str to (str, str)
        Old name -> the module where it is now, and its name there.

    Returns
    -------
    callable
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, now = names[name]
        _warn(f"{module}.{name}", f"{place}.{now}", stacklevel=2)
        return getattr(importlib.import_module(place), now)

    return __getattr__


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next release.",
        FutureWarning,
        stacklevel=stacklevel + 1,
    )


def _names_of(module: str) -> list[str]:
    """List the public names that are found under the name of an old module."""
    places = map(importlib.import_module, _MODULES[module])
    return sorted({name for place in places for name in place.__all__})


class _MovedModule(ModuleType):
    """Stands where a module was, and hands out what is elsewhere now."""

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), "__all__", *_names_of(self.__name__)})

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return _names_of(self.__name__)
        if name.startswith("__"):  # what the import system asks every module for
            raise AttributeError(name)
        place, now = current_name(self.__name__, name)
        if place == self.__name__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self.__name__ in _PUBLIC_MODULES:
            _warn(f"{self.__name__}.{name}", f"{place}.{now}", stacklevel=2)
        return getattr(importlib.import_module(place), now)


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def install_finder() -> None:
    """Make old modules importable; done once, by the package itself."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
