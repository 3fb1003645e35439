"""Descriptions of single models: what makes each, its parameters, summary, paper and tags."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods, StrOptions

from pyimgano._nesting import all_parts, first_step, makes_maps
from pyimgano._pyod_models import PyODRow, check_pyod_parameters
from pyimgano.base import BaseImageDetector
from pyimgano.detectors import PyODDetector
from pyimgano.detectors._feature_holder import FeatureHolderMixin, feature_step_of
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.exceptions import (
    ModelChoiceWarning,
    PluginError,
    UnknownParameterError,
)
from pyimgano.features import (
    BasePatchFeatures,
    FilterBankFeatures,
    PatchPooling,
    make_features,
)
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.utils._optional import has_extra
from pyimgano.utils._warning import warn_user
from pyimgano.utils._words import did_you_mean

__all__ = ["ALIASES", "CHOICES", "PRESETS", "Choice", "Model", "Preset", "PyODModel"]

_OWN = "custom"  # family of models that name none
_KINDS = ("images", "patch grids", "rows")
_EMPTY = inspect.Parameter.empty


def _named_parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(factory).parameters
    return {key: value for key, value in found.items() if value.kind in named}


# ---- one model ------------------------------------------------------------------------
class Model:
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

    @property
    def year(self) -> int | None:
        return _year(self.paper)

    @property
    def save_load(self) -> str:
        return _save_load(self.made_of)

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
            inner = [one for one in names if "__" in one]
            for key in nested:
                if key not in names:
                    raise UnknownParameterError(
                        f"{self.name} has no parameter {key!r}.{did_you_mean(key, names)} "
                        f"It has {', '.join([*known, *inner])}."
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
            step = feature_step_of(part) if isinstance(part, FeatureHolderMixin) else part
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
        of_network = None if self._network is None else self._network.needs_extra
        return of_network or getattr(self._as_it_comes, "_needs_extra", None)

    @property
    def input_kinds(self) -> list[str]:
        if self._as_it_comes is None:
            return []
        first = first_step(self._as_it_comes)
        if isinstance(first, (BaseImageDetector, ScoreEnsemble)):
            takes_numbers = get_tags(first).input_tags.two_d_array
            return list(_KINDS) if takes_numbers else ["images"]
        tags = get_tags(first).input_tags
        taken = tags.three_d_array, False, tags.two_d_array
        return [kind for kind, takes in zip(_KINDS, taken) if takes]


def _make_named_features(estimator: Any) -> None:
    """Put the feature step in the place of its name, so that its parameters can be set."""
    if isinstance(estimator.get_params(deep=False).get("features"), str):
        estimator.set_params(features=feature_step_of(estimator))


# ---- PyOD's models --------------------------------------------------------------------
# Parameters of the pipeline's own parts that are parameters of the model as well.
_WRAPPER = ("contamination", "cv", "ensemble", "n_jobs", "random_state")
_STEPS = {"features": "filterbank", "pooling": None}
# The mean over all patches would drown a small defect.
_POOLED = "max"


class PyODModel(Model):
    """Features, pooled to one row for each image, and one of PyOD's models."""

    # Known without making the pipeline: listing must not import PyOD.
    supports_pixel_map = False
    requires_checkpoint = False
    needs_extra = None

    def __init__(self, class_name: str, row: PyODRow) -> None:
        self.class_name = class_name
        self._title = row.title
        self._constraints = row.constraints
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
            **self._constraints,
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
        check_pyod_parameters(self.class_name, own)
        detector = PyODDetector(self._class(**own), **wrapper)
        return Pipeline([("features", features), ("pooling", pooling), ("detector", detector)])


# ---- presets --------------------------------------------------------------------------
class Preset(Model):
    """Another model with chosen parameters."""

    def __init__(
        self, name: str, base: Model, summary: str, params: Callable[[], dict[str, Any]]
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


class Choice(Model):
    """The first of two presets where its extra is installed, otherwise the second.

    They differ in their features only: with features given there is nothing to choose.
    """

    def __init__(self, name: str, preferred: Preset, otherwise: Preset) -> None:
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
    def chosen(self) -> Preset:
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
PRESETS: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {
    "industrial-fast-imagenet": (
        "vision_patchcore",
        "PatchCore on EfficientNet-Lite0 with a small bank: ImageNet features, fast on a CPU.",
        lambda: {"features": _lite_features(), "coreset_ratio": 0.01},
    ),
    "industrial-fast-filterbank": (
        "vision_patchcore",
        "PatchCore without network weights: the filter bank's features and a small bank.",
        # Finer than the step's default: small defects count for more than half the time does.
        lambda: {"features": FilterBankFeatures(resize=320), "coreset_ratio": 0.01},
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
    "industrial-clean-imagenet": (
        "vision_musc",
        "Mutual scoring on EfficientNet-Lite0: the images of a folder that do not belong.",
        lambda: {"features": make_features("efficientnet_lite0", pool=1)},
    ),
    "industrial-clean-filterbank": (
        "vision_musc",
        "Mutual scoring without network weights: the images of a folder that do not belong.",
        lambda: {"features": FilterBankFeatures(resize=320)},
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
CHOICES = {
    "industrial-clean": ("industrial-clean-imagenet", "industrial-clean-filterbank"),
    "industrial-fast": ("industrial-fast-imagenet", "industrial-fast-filterbank"),
}
# Other names of models, which are found by them but not listed.
ALIASES = {"vision_reverse_dist": "vision_reverse_distillation"}


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
