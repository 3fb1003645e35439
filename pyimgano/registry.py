"""The registry: every model by name, what it accepts, and a way to add your own.

Nothing is listed here that a class can say itself. A detector is a model by its class attribute
``_registry_name``; its summary and paper are those of its docstring, its parameters those of its
constructor. Only PyOD's models have a table, of what PyOD's classes do not tell.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from pyimgano._models import ALIASES, CHOICES, PRESETS, Choice, Model, Preset, PyODModel
from pyimgano._pyod_models import PYOD
from pyimgano.exceptions import (
    PluginError,
    PluginWarning,
    UnknownModelError,
)
from pyimgano.interop import as_pyod
from pyimgano.utils._plugins import entry_points
from pyimgano.utils._words import as_json, did_you_mean, readable
from pyimgano.utils.discovery import all_estimators

__all__ = ["create_model", "list_models", "model_info", "register_model", "resolve_model"]

_GROUP = "pyimgano.registry"


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
'vision_patchcore'? list_models(), or "pyimgano models list", has all names.
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
    ['embedded', 'industrial-accurate', 'industrial-balanced', 'industrial-clean', \
'industrial-clean-filterbank', 'industrial-clean-imagenet', 'industrial-fast', \
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
            "required": parameter.default is inspect.Parameter.empty,
            "default": None
            if parameter.default is inspect.Parameter.empty
            else as_json(parameter.default),
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
        "year": model.year,
        "made_of": list(model.made_of),
        "preset_of": model.preset_of,
        "stands_for": model.chosen.name if isinstance(model, Choice) else None,
        "input_kinds": list(model.input_kinds),
        "supports_pixel_map": model.supports_pixel_map,
        "requires_checkpoint": model.requires_checkpoint,
        "needs_extra": model.needs_extra,
        "save_load": model.save_load,
        "parameters": parameters,
    }


def resolve_model(name: str, /) -> tuple[str, str]:
    """Name the preset that a model's name stands for on this machine, and the reason.

    ``"industrial-fast"`` and ``"industrial-clean"`` are the names that stand for others:
    ``"industrial-fast"`` for ``"industrial-fast-imagenet"`` where the extra ``imagenet`` is
    installed, and for ``"industrial-fast-filterbank"``, which needs no weights, where it is not.
    Those two names mean the same on every machine. ``"industrial-clean"`` is alike.
    ``"vision_reverse_dist"`` is another name of ``"vision_reverse_distillation"``.

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
    return (model.chosen.name, model.reason) if isinstance(model, Choice) else (model.name, "")


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
    _registered[name] = Model(name, factory, family=family, tags=tags, paper=paper)
    return factory


# ---- all models -----------------------------------------------------------------------
_registered: dict[str, Model] = {}


@cache
def _builtin() -> dict[str, Model]:
    models: list[Model] = []
    for _, cls in all_estimators("outlier_detector"):
        # Its own attribute: a subclass is another model, or none.
        name = vars(cls).get("_registry_name")
        if name is not None:
            models.append(Model(name, cls))
    models += [PyODModel(class_name, row) for class_name, row in PYOD.items()]
    found = {model.name: model for model in models}
    presets = {
        name: Preset(name, found[base], summary, params)
        for name, (base, summary, params) in PRESETS.items()
    }
    for name, (preferred, otherwise) in CHOICES.items():
        found[name] = Choice(name, presets[preferred], presets[otherwise])
    return {**found, **presets}


@cache
def _entry_points() -> tuple[dict[str, Any], list[str]]:
    """Entry points by name, not loaded; and what is to be said about names given twice."""
    return entry_points(_GROUP, "model", _builtin())


@cache
def _plugin(name: str) -> Model:
    point = _entry_points()[0][name]
    what = f"the plug-in for the model {name!r} ({_GROUP}: {point.value})"
    try:
        factory = point.load()
        model = Model(name, factory) if callable(factory) else None
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


def _find(name: str) -> Model:
    for models in (_registered, _builtin()):
        if name in models:
            return models[name]
    if name in ALIASES:
        return _find(ALIASES[name])
    plugins, _ = _entry_points()
    if name in plugins:
        return _plugin(name)
    known = [*_registered, *_builtin(), *plugins]
    raise UnknownModelError(
        f"there is no model {name!r}.{did_you_mean(name, known)} list_models(), or "
        '"pyimgano models list", has all names.'
    )


def _all_models() -> dict[str, Model]:
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


def _those_that_can_be_made(models: dict[str, Model]) -> dict[str, Model]:
    """Leave out, with a warning, what was registered and cannot be made."""
    found = dict(models)
    for name in _registered:
        try:
            _ = _registered[name]._as_it_comes
        except PluginError as error:
            warnings.warn(f"{error}. It is left out.", PluginWarning, stacklevel=3)
            del found[name]
    return found
