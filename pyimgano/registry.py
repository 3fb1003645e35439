"""The registry: every model by name, what it accepts, and a way to add your own.

Nothing is listed here that a class can say itself. A detector is a model by its class attribute
``_registry_name``; its summary and paper are those of its docstring, its parameters those of its
constructor. Only PyOD's models have a table, of what PyOD's classes do not tell.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods, StrOptions

from pyimgano._nesting import all_parts, first_step, makes_maps
from pyimgano._pyod_models import PYOD, PyODRow
from pyimgano.base import BaseImageDetector
from pyimgano.detectors import BasePatchDetector, PyODDetector
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.exceptions import (
    ModelChoiceWarning,
    PluginError,
    PluginWarning,
    UnknownModelError,
    UnknownParameterError,
)
from pyimgano.features import (
    BasePatchFeatures,
    FilterBankFeatures,
    PatchPooling,
    make_features,
)
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.interop import as_pyod
from pyimgano.utils._optional import has_extra
from pyimgano.utils._plugins import entry_points
from pyimgano.utils._warning import warn_user
from pyimgano.utils._words import as_json, did_you_mean, readable
from pyimgano.utils.discovery import all_estimators

__all__ = ["create_model", "list_models", "model_info", "register_model", "resolve_model"]

_GROUP = "pyimgano.registry"
_OWN = "custom"  # family of models that name none
_KINDS = ("images", "patch grids", "rows")
_EMPTY = inspect.Parameter.empty


# ---- what users call ------------------------------------------------------------------
def create_model(name: str = "", /, *, contract: str = "sklearn", **params: Any) -> Any:
    """Make a model by its name, not fitted.

    Parameters
    ----------
    name : str
        One of :func:`list_models`. It comes first, without ``name=``, which may be a parameter
        of the model.
    contract : {"sklearn", "pyod"}, default="sklearn"
        ``"pyod"`` wraps the model in :func:`~pyimgano.interop.as_pyod`: labels 0 and 1,
        ``decision_function`` higher = worse.
    **params
        Parameters of the model in place of its defaults; :func:`model_info` lists them. Those
        of its parts have scikit-learn's names: ``features__resize=128``. A part that is given
        by a name is made first, so ``features="resnet18", features__weights="file.pth"`` works.

    Returns
    -------
    estimator
        A detector, or a pipeline that ends in one.

    Raises
    ------
    UnknownModelError
        If there is no model of that name.
    UnknownParameterError
        If the model, or the part of it, has no parameter of that name.
    PluginError
        If the model is that of a plug-in which cannot be loaded.

    Warns
    -----
    ModelChoiceWarning
        If the name stands for a preset that does without an extra, because the extra is not
        installed; see :func:`resolve_model`.

    Examples
    --------
    >>> from pyimgano import create_model
    >>> create_model("vision_patchcore", features="filterbank", coreset_ratio=0.01)
    PatchCoreDetector(coreset_ratio=0.01, features='filterbank')
    >>> create_model("vision_patchcoer")
    Traceback (most recent call last):
    ...
    pyimgano.exceptions.UnknownModelError: there is no model 'vision_patchcoer'. Did you mean \
'vision_patchcore'? list_models() has all names.
    """
    if name == "":
        given = f"({params['name']!r})" if "name" in params else "('vision_patchcore')"
        raise TypeError(
            f"create_model needs the name of a model as its first argument, without 'name=': "
            f"create_model{given}."
        )
    if contract not in ("sklearn", "pyod"):
        raise ValueError(f"contract must be 'sklearn' or 'pyod', got {contract!r}.")
    estimator = _find(name).create(params)
    return as_pyod(estimator) if contract == "pyod" else estimator


def list_models(
    *,
    tags: str | Iterable[str] | None = None,
    family: str | None = None,
    input_kind: str | None = None,
    supports_pixel_map: bool | None = None,
    requires_checkpoint: bool | None = None,
) -> list[str]:
    """Names of all models that fit.

    Neither torch nor PyOD is imported for that.

    Parameters
    ----------
    tags : str or iterable of str, default=None
        Only models with all of these tags, such as ``"preset"`` or ``"pyod"``.
    family : str, default=None
        Only models of this family, such as ``"memory bank"``.
    input_kind : {"images", "patch grids", "rows"}, default=None
        Only models that take this kind of input.
    supports_pixel_map : bool, default=None
        Only models that make anomaly maps, or only those that make none.
    requires_checkpoint : bool, default=None
        Only models that need pretrained weights as they come, or only those that need none.
        A name that stands for another model is listed as that one.

    Returns
    -------
    list of str
        Sorted.

    Raises
    ------
    UnknownModelError
        If no model at all has that tag, family or kind of input.

    Warns
    -----
    PluginWarning
        For each plug-in that cannot be loaded, and each registered model that cannot be made
        to see whether it fits; the other models are listed.

    Examples
    --------
    >>> from pyimgano import list_models
    >>> list_models(tags="preset")
    ['embedded', 'industrial-accurate', 'industrial-balanced', 'industrial-fast', \
'industrial-fast-filterbank', 'industrial-fast-imagenet']
    >>> "vision_padim" in list_models(family="gaussian", supports_pixel_map=True)
    True
    """
    models = _all_models()
    if input_kind is not None or supports_pixel_map is not None or requires_checkpoint is not None:
        models = _those_that_can_be_made(models)
    wanted_tags = {tags} if isinstance(tags, str) else set(tags or ())
    wanted_families = set() if family is None else {family}
    wanted_kinds = set() if input_kind is None else {input_kind}
    for what, wanted, of_model in (
        ("tag", wanted_tags, lambda model: model.tags),
        ("family", wanted_families, lambda model: [model.family]),
        ("input kind", wanted_kinds, lambda model: model.input_kinds),
    ):
        # Only what was asked for is looked at: to tell more, a model has to be made.
        known = {one for model in models.values() for one in of_model(model)} if wanted else set()
        for one in sorted(wanted - known):
            raise UnknownModelError(
                f"no model has the {what} {one!r}.{did_you_mean(one, known)} There are "
                f"{', '.join(map(repr, sorted(known)))}."
            )
    return sorted(
        name
        for name, model in models.items()
        if wanted_tags <= set(model.tags)
        and family in (None, model.family)
        and (not wanted_kinds or wanted_kinds <= set(model.input_kinds))
        and (supports_pixel_map is None or supports_pixel_map == model.supports_pixel_map)
        and (requires_checkpoint is None or requires_checkpoint == model.requires_checkpoint)
    )


def model_info(name: str, /) -> dict[str, Any]:
    """Describe a model in plain JSON types.

    Parameters
    ----------
    name : str
        One of :func:`list_models`.

    Returns
    -------
    dict
        ``name``; ``summary``; ``family``; ``tags``; ``paper`` and ``year`` (None where there
        is none); ``made_of``, the class or classes; ``preset_of``, the model a preset is made
        from, or None; ``stands_for``, the preset that a name such as ``"industrial-fast"``
        stands for on this machine, or None; ``input_kinds``; ``supports_pixel_map``;
        ``requires_checkpoint``,
        whether it needs pretrained weights as it comes; ``needs_extra``, the extra of pyimgano
        it needs, or None; ``save_load``, how to save and load it; and ``parameters``. Those
        have, by name, ``required``, ``default`` (repr of what JSON has no type for) and
        ``accepts``, a list of what is accepted, or None where the class does not declare it.

    Raises
    ------
    UnknownModelError
        If there is no model of that name.

    Examples
    --------
    >>> from pyimgano import model_info
    >>> info = model_info("vision_patchcore")
    >>> info["year"], info["input_kinds"]
    (2022, ['images', 'patch grids', 'rows'])
    >>> info["parameters"]["coreset_ratio"]
    {'required': False, 'default': 0.1, 'accepts': ['float in (0, 1]']}
    """
    model = _find(name)
    accepted = model.constraints()
    parameters = {
        key: {
            "required": parameter.default is _EMPTY,
            "default": None if parameter.default is _EMPTY else as_json(parameter.default),
            "accepts": [text for one in accepted[key] for text in readable(one)]
            if key in accepted
            else None,
        }
        for key, parameter in model.parameters().items()
    }
    return {
        "name": name,
        "summary": model.summary,
        "family": model.family,
        "tags": list(model.tags),
        "paper": model.paper,
        "year": _year(model.paper),
        "made_of": list(model.made_of),
        "preset_of": model.preset_of,
        "stands_for": model.chosen.name if isinstance(model, _Choice) else None,
        "input_kinds": list(model.input_kinds),
        "supports_pixel_map": model.supports_pixel_map,
        "requires_checkpoint": model.requires_checkpoint,
        "needs_extra": model.needs_extra,
        "save_load": _save_load(model.made_of),
        "parameters": parameters,
    }


def resolve_model(name: str, /) -> tuple[str, str]:
    """Name the preset that a model's name stands for on this machine, and the reason.

    ``"industrial-fast"`` is the one name that stands for another: for
    ``"industrial-fast-imagenet"`` where the extra ``imagenet`` is installed, and for
    ``"industrial-fast-filterbank"``, which needs no weights, where it is not. Those two names
    mean the same on every machine.

    Parameters
    ----------
    name : str
        One of :func:`list_models`.

    Returns
    -------
    name : str
        A name that means the same everywhere: for all other models the one given.
    reason : str
        Why it is this one, for people to read; empty if nothing had to be chosen.

    Raises
    ------
    UnknownModelError
        If there is no model of that name.

    Examples
    --------
    >>> from pyimgano.registry import resolve_model
    >>> resolve_model("industrial-balanced")
    ('industrial-balanced', '')
    >>> name, reason = resolve_model("industrial-fast")
    >>> name in ("industrial-fast-imagenet", "industrial-fast-filterbank")
    True
    """
    model = _find(name)
    return (model.chosen.name, model.reason) if isinstance(model, _Choice) else (name, "")


def register_model(
    name: str,
    factory: Callable[..., Any] | None = None,
    /,
    *,
    family: str | None = None,
    tags: Iterable[str] | None = None,
    paper: str | None = None,
    overwrite: bool = False,
) -> Any:
    """Add a model of your own, in this process.

    Parameters
    ----------
    name : str
        What it shall be called.
    factory : class or function, default=None
        A detector class, or a function that returns an estimator; its parameters are those of
        the model. What can be known about the model is taken from it: the first line of its
        docstring and, of an estimator made with the defaults, whether it makes anomaly maps
        and needs weights. Without it, the result is a decorator.
    family : str, default=None
        A family; None is the class's own ``_family``, or "custom".
    tags : iterable of str, default=None
        Tags; None is the class's own ``_tags``, or none.
    paper : str, default=None
        Where it is described; None is the first reference of the docstring.
    overwrite : bool, default=False
        Replace a model of that name; otherwise it is an error.

    Returns
    -------
    class or function
        The factory, or a decorator that returns it.

    Raises
    ------
    ValueError
        If there is a model of that name already.

    Notes
    -----
    An installed package adds models to every process through entry points of the group
    ``pyimgano.registry``: the name is that of the model, the object a factory as here. It is
    loaded when it is needed.

    Examples
    --------
    >>> from pyimgano import PatchCoreDetector, create_model, register_model
    >>> @register_model("line3", tags=["ours"])
    ... def line3(coreset_ratio=0.02):
    ...     '''PatchCore as it runs on line 3.'''
    ...     return PatchCoreDetector("filterbank", coreset_ratio=coreset_ratio)
    >>> create_model("line3")
    PatchCoreDetector(coreset_ratio=0.02, features='filterbank')
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a model must be a string, got {name!r}.")
    if factory is None:

        def decorator(factory: Callable[..., Any]) -> Callable[..., Any]:
            return register_model(
                name, factory, family=family, tags=tags, paper=paper, overwrite=overwrite
            )

        return decorator
    if not callable(factory):
        raise TypeError(
            f"{name}: a model is registered as a class or a function that makes it, got a "
            f"{type(factory).__name__}."
        )
    if not overwrite and (name in _registered or name in _builtin() or name in _entry_points()[0]):
        raise ValueError(
            f"there is a model {name!r} already; choose another name, or replace it with "
            "overwrite=True."
        )
    _registered[name] = _Model(name, factory, family=family, tags=tags, paper=paper)
    return factory


def _named_parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(factory).parameters
    return {key: value for key, value in found.items() if value.kind in named}


# ---- one model ------------------------------------------------------------------------
class _Model:
    """A name and what makes its estimator; everything else is read off these."""

    preset_of: str | None = None

    def __init__(
        self,
        name: str,
        factory: Callable[..., Any],
        *,
        family: str | None = None,
        tags: Iterable[str] | None = None,
        paper: str | None = None,
    ) -> None:
        self.name = name
        self.factory = factory
        self.family: str = getattr(factory, "_family", _OWN) if family is None else family
        given = getattr(factory, "_tags", ()) if tags is None else tags
        self.tags = tuple(sorted({given} if isinstance(given, str) else set(given)))
        self._paper = paper

    def parameters(self) -> dict[str, inspect.Parameter]:
        return _named_parameters(self.factory)

    def constraints(self) -> Mapping[str, Sequence[Any]]:
        return getattr(self.factory, "_parameter_constraints", {})

    def build(self, params: Mapping[str, Any]) -> Any:
        return self.factory(**params)

    def create(self, params: Mapping[str, Any]) -> Any:
        known = self.parameters()
        own = {key: value for key, value in params.items() if "__" not in key or key in known}
        for key in own:
            if key not in known:
                raise UnknownParameterError(
                    f"{self.name} has no parameter {key!r}.{did_you_mean(key, known)} It has "
                    f"{', '.join(known) or 'none'}."
                )
        estimator = self.build(own)
        if not hasattr(estimator, "fit"):
            raise PluginError(self._no_estimator(estimator))
        nested = {key: value for key, value in params.items() if key not in own}
        if any(key.startswith("features__") for key in nested):
            _make_named_features(estimator)
        if nested:
            names = estimator.get_params(deep=True)
            for key in nested:
                if key not in names:
                    raise UnknownParameterError(
                        f"{self.name} has no parameter {key!r}.{did_you_mean(key, names)} "
                        f"create_model({self.name!r}).get_params() has all names."
                    )
            estimator.set_params(**nested)
        return estimator

    @cached_property
    def _as_it_comes(self) -> Any:
        """The estimator with all defaults; None where it has parameters without."""
        if any(parameter.default is _EMPTY for parameter in self.parameters().values()):
            return None
        # Whatever foreign code raises, the message must say which model it comes from.
        try:
            estimator = self.build({})
        except Exception as error:
            raise PluginError(
                f"the model {self.name!r} cannot be made: {type(error).__name__}: {error}"
            ) from error
        if not hasattr(estimator, "fit"):
            raise PluginError(self._no_estimator(estimator))
        return estimator

    def _no_estimator(self, made: Any) -> str:
        factory = getattr(self.factory, "__qualname__", repr(self.factory))
        return (
            f"the model {self.name!r} cannot be made: {factory} returned "
            f"{'None' if made is None else f'a {type(made).__name__}'}; it must return an "
            "estimator, which has fit"
        )

    @cached_property
    def _network(self) -> BaseNetworkFeatures | None:
        """The first step that runs a network, if there is one."""
        if not hasattr(self._as_it_comes, "get_params"):
            return None
        for part in all_parts(self._as_it_comes):
            step = getattr(part, "features", part)
            if isinstance(step, str) and isinstance(part, BasePatchDetector):
                step = make_features(step, **part._feature_defaults)
            if isinstance(step, BaseNetworkFeatures):
                return step
        return None

    @property
    def summary(self) -> str:
        return (self._doc.strip().splitlines() or [self.name])[0]

    @property
    def paper(self) -> str | None:
        if self._paper is not None:
            return self._paper
        own = vars(self.factory) if inspect.isclass(self.factory) else {}
        return own["_paper"] if "_paper" in own else _first_reference(self._doc)

    @property
    def _doc(self) -> str:
        return inspect.cleandoc(self.factory.__doc__ or "")

    @property
    def made_of(self) -> list[str]:
        if self._as_it_comes is None:
            return []
        parts = [one for one in all_parts(self._as_it_comes) if not isinstance(one, Pipeline)]
        return list(dict.fromkeys(_public_name(type(part)) for part in parts))

    @property
    def supports_pixel_map(self) -> bool | None:
        return None if self._as_it_comes is None else makes_maps(self._as_it_comes)

    @property
    def requires_checkpoint(self) -> bool | None:
        if self._as_it_comes is None:
            return None
        return self._network is not None and self._network.weights is not None

    @property
    def needs_extra(self) -> str | None:
        return None if self._network is None else self._network.needs_extra

    @property
    def input_kinds(self) -> list[str]:
        if self._as_it_comes is None:
            return []
        first = first_step(self._as_it_comes)
        if isinstance(first, (BaseImageDetector, ScoreEnsemble)):
            return list(_KINDS)
        tags = get_tags(first).input_tags
        taken = tags.three_d_array, False, tags.two_d_array
        return [kind for kind, takes in zip(_KINDS, taken) if takes]


def _make_named_features(estimator: Any) -> None:
    """Put the feature step in the place of its name, so that its parameters can be set."""
    named = estimator.get_params(deep=False).get("features")
    if isinstance(named, str):
        defaults = getattr(estimator, "_feature_defaults", {})
        estimator.set_params(features=make_features(named, **defaults))


# ---- PyOD's models --------------------------------------------------------------------
# Parameters of the pipeline's own parts that are parameters of the model as well.
_WRAPPER = ("contamination", "cv", "ensemble", "n_jobs", "random_state")
_STEPS = {"features": "filterbank", "pooling": None}
# The mean over all patches would drown a small defect.
_POOLED = "max"


class _PyODModel(_Model):
    """Features, pooled to one row for each image, and one of PyOD's models."""

    # Known without making the pipeline: listing must not import PyOD.
    supports_pixel_map = False
    requires_checkpoint = False
    needs_extra = None

    def __init__(self, class_name: str, row: PyODRow) -> None:
        self.class_name = class_name
        self._title = row.title
        super().__init__(
            f"vision_{class_name.lower()}",
            PyODDetector,
            family=row.family,
            tags=("pyod", "image-level"),
            paper=row.paper,
        )

    @property
    def input_kinds(self) -> list[str]:
        return ["images"]

    @property
    def summary(self) -> str:
        return f"{self._title}; PyOD's {self.class_name} on pooled patch features."

    @cached_property
    def _class(self) -> type:
        module = importlib.import_module(f"pyod.models.{self.class_name.lower()}")
        return getattr(module, self.class_name)

    def parameters(self) -> dict[str, inspect.Parameter]:
        def keyword(key: str, default: Any) -> inspect.Parameter:
            return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default)

        wrapper = inspect.signature(PyODDetector).parameters
        found = {key: keyword(key, default) for key, default in _STEPS.items()}
        for key, parameter in _named_parameters(self._class).items():
            if key not in _WRAPPER:
                found[key] = keyword(key, parameter.default)
        return {**found, **{key: wrapper[key] for key in _WRAPPER}}

    def constraints(self) -> Mapping[str, Sequence[Any]]:
        own = {key: PyODDetector._parameter_constraints[key] for key in _WRAPPER}
        step = HasMethods(["fit", "transform"])
        return {
            "features": [str, step],
            "pooling": [StrOptions({"passthrough"}), step, None],
            **own,
        }

    def build(self, params: Mapping[str, Any]) -> Any:
        steps = {key: params.get(key, default) for key, default in _STEPS.items()}
        wrapper = {key: params[key] for key in _WRAPPER if key in params}
        own = {k: v for k, v in params.items() if k not in steps and k not in wrapper}
        features = make_features(steps["features"])
        pooling = steps["pooling"]

        if pooling is None:  # only grids have something to pool
            grids = isinstance(features, BasePatchFeatures)
            pooling = PatchPooling(_POOLED) if grids else "passthrough"
        detector = PyODDetector(self._class(**own), **wrapper)
        return Pipeline([("features", features), ("pooling", pooling), ("detector", detector)])


# ---- presets --------------------------------------------------------------------------
class _Preset(_Model):
    """Another model with chosen parameters."""

    def __init__(
        self, name: str, base: _Model, summary: str, params: Callable[[], dict[str, Any]]
    ) -> None:
        super().__init__(
            name, base.factory, family=base.family, tags=(*base.tags, "preset"), paper=base.paper
        )
        self._base = base
        self._chosen = params
        self._summary = summary
        self.preset_of = base.name

    @property
    def summary(self) -> str:
        return self._summary

    def parameters(self) -> dict[str, inspect.Parameter]:
        found = self._base.parameters()
        return {**found, **{k: found[k].replace(default=v) for k, v in self._chosen().items()}}

    def build(self, params: Mapping[str, Any]) -> Any:
        return self._base.build({**self._chosen(), **params})


class _Choice(_Model):
    """The first of two presets where its extra is installed, otherwise the second.

    They differ in their features only: with features given there is nothing to choose.
    """

    def __init__(self, name: str, preferred: _Preset, otherwise: _Preset) -> None:
        super().__init__(
            name,
            preferred.factory,
            family=preferred.family,
            tags=preferred.tags,
            paper=preferred.paper,
        )
        self._preferred = preferred
        self._otherwise = otherwise
        self.preset_of = preferred.preset_of

    @property
    def _extra(self) -> str:
        extra = self._preferred.needs_extra
        assert extra is not None
        return extra

    @property
    def chosen(self) -> _Preset:
        return self._preferred if has_extra(self._extra) else self._otherwise

    @property
    def reason(self) -> str:
        if has_extra(self._extra):
            return f"the extra {self._extra} is installed"
        return (
            f"the extra {self._extra} is not installed; with it, "
            f'pip install "pyimgano[{self._extra}]", it is {self._preferred.name}'
        )

    @property
    def summary(self) -> str:
        return (
            f"{self._preferred.name} where the extra {self._extra} is installed, otherwise "
            f"{self._otherwise.name}."
        )

    @property
    def _as_it_comes(self) -> Any:
        return self.chosen._as_it_comes  # what is installed may change

    @property
    def _network(self) -> BaseNetworkFeatures | None:
        return self.chosen._network

    def parameters(self) -> dict[str, inspect.Parameter]:
        return self.chosen.parameters()

    def build(self, params: Mapping[str, Any]) -> Any:
        chosen = self.chosen
        if chosen is self._otherwise and "features" not in params:
            warn_user(
                f"{self.name} is {chosen.name} here: {self.reason}. "
                f"create_model({chosen.name!r}) gives this model without the warning.",
                ModelChoiceWarning,
            )
        return chosen.build(params)


def _lite_features() -> BasePatchFeatures:
    # Their weights take 3 MB: with them the saved file runs where the extra is not installed.
    return make_features("efficientnet_lite0").set_params(embed_weights=True)


# Name, the model it is made from, what it is, and the parameters, made anew for each model.
_PRESETS: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {
    "industrial-fast-imagenet": (
        "vision_patchcore",
        "PatchCore on EfficientNet-Lite0 with a small bank: ImageNet features, fast on a CPU.",
        lambda: {"features": _lite_features(), "coreset_ratio": 0.01},
    ),
    "industrial-fast-filterbank": (
        "vision_patchcore",
        "PatchCore without network weights: the filter bank's features and a small bank.",
        lambda: {"features": FilterBankFeatures(), "coreset_ratio": 0.01},
    ),
    "industrial-balanced": (
        "vision_patchcore",
        "PatchCore on ResNet-18 with a small bank: near the best, fit for a CPU.",
        lambda: {"features": "resnet18", "coreset_ratio": 0.01},
    ),
    "industrial-accurate": (
        "vision_patchcore",
        "PatchCore as in the paper: WideResNet-50 and a tenth of all patches; wants a GPU.",
        lambda: {"features": "wide_resnet50_2", "coreset_ratio": 0.1},
    ),
    "embedded": (
        "vision_patchcore",
        "PatchCore for small computers: half the filter bank's features at 128 pixels, no weights.",
        lambda: {
            "features": FilterBankFeatures(resize=128, n_components=64),
            "coreset_ratio": 0.01,
        },
    ),
}
# Names that stand for the first preset if its extra is installed, otherwise for the second.
_CHOICES = {
    "industrial-fast": ("industrial-fast-imagenet", "industrial-fast-filterbank"),
}


# ---- all models -----------------------------------------------------------------------
_registered: dict[str, _Model] = {}


@cache
def _builtin() -> dict[str, _Model]:
    models: list[_Model] = []
    for _, cls in all_estimators("outlier_detector"):
        # Its own attribute: a subclass is another model, or none.
        name = vars(cls).get("_registry_name")
        if name is not None:
            models.append(_Model(name, cls))
    models += [_PyODModel(class_name, row) for class_name, row in PYOD.items()]
    found = {model.name: model for model in models}
    presets = {
        name: _Preset(name, found[base], summary, params)
        for name, (base, summary, params) in _PRESETS.items()
    }
    for name, (preferred, otherwise) in _CHOICES.items():
        found[name] = _Choice(name, presets[preferred], presets[otherwise])
    return {**found, **presets}


@cache
def _entry_points() -> tuple[dict[str, Any], list[str]]:
    """Entry points by name, not loaded; and what is to be said about names given twice."""
    return entry_points(_GROUP, "model", _builtin())


@cache
def _plugin(name: str) -> _Model:
    point = _entry_points()[0][name]
    what = f"the plug-in for the model {name!r} ({_GROUP}: {point.value})"
    try:
        factory = point.load()
        model = _Model(name, factory) if callable(factory) else None
        if model is not None:
            _ = model._as_it_comes  # a factory may be broken, too
    except PluginError as error:
        raise PluginError(f"{what} cannot be used: {error}") from error
    # Whatever foreign code raises, the other models must stay in reach.
    except Exception as error:
        raise PluginError(f"{what} cannot be used: {type(error).__name__}: {error}") from error
    if model is None:
        raise PluginError(
            f"{what} is a {type(factory).__name__}; it must be a class or a function that makes "
            "the model"
        )
    return model


def _find(name: str) -> _Model:
    for models in (_registered, _builtin()):
        if name in models:
            return models[name]
    plugins, _ = _entry_points()
    if name in plugins:
        return _plugin(name)
    known = [*_registered, *_builtin(), *plugins]
    raise UnknownModelError(
        f"there is no model {name!r}.{did_you_mean(name, known)} list_models() has all names."
    )


def _all_models() -> dict[str, _Model]:
    models = dict(_builtin())
    plugins, problems = _entry_points()
    for name in plugins:
        try:
            models[name] = _plugin(name)
        except PluginError as error:
            problems = [*problems, f"{error}. It is left out."]
    for problem in problems:
        warnings.warn(problem, PluginWarning, stacklevel=3)
    return {**models, **_registered}


def _those_that_can_be_made(models: dict[str, _Model]) -> dict[str, _Model]:
    """Leave out, with a warning, what was registered and cannot be made."""
    found = dict(models)
    for name in _registered:
        try:
            _ = _registered[name]._as_it_comes
        except PluginError as error:
            warnings.warn(f"{error}. It is left out.", PluginWarning, stacklevel=3)
            del found[name]
    return found


# ---- in words -------------------------------------------------------------------------
def _first_reference(doc: str) -> str | None:
    found = re.search(r"^\.\. \[1\] (.*(?:\n   .*)*)", doc, flags=re.MULTILINE)
    return None if found is None else " ".join(found.group(1).split())


def _year(paper: str | None) -> int | None:
    years = re.findall(r"\b(?:19|20)\d\d\b", paper or "")
    return int(years[-1]) if years else None


def _public_name(cls: type) -> str:
    """Return the name that users import a class by: that of the outermost package that has it."""
    parts = cls.__module__.split(".")
    for n in range(min(2, len(parts)), len(parts) + 1):
        module = ".".join(parts[:n])
        if getattr(sys.modules.get(module), cls.__qualname__, None) is cls:
            return f"{module}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _save_load(classes: Iterable[str]) -> str:
    foreign = [name for name in classes if name.split(".")[0] not in ("pyimgano", "sklearn")]
    if not foreign:
        return "pyimgano.save and pyimgano.load"
    return f"pyimgano.save; load refuses {', '.join(foreign)}: joblib.load files you trust"
