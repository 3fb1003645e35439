"""Recipes: the images they are given, the plans they make, and all of them by name."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import _num_samples

from pyimgano._nesting import innermost
from pyimgano.base import BaseDetector
from pyimgano.benchmark import RunDirectory
from pyimgano.benchmark._sources import dataset_name
from pyimgano.datasets import InspectionDataset
from pyimgano.exceptions import (
    DatasetError,
    PluginError,
    PluginWarning,
    RunError,
    UnknownParameterError,
    UnknownRecipeError,
)
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.utils._plugins import entry_points
from pyimgano.utils._words import as_json, did_you_mean

__all__ = [
    "Plan",
    "Recipe",
    "RecipeConfig",
    "RecipeData",
    "find_recipe",
    "list_recipes",
    "recipe_info",
    "register_recipe",
]

_GROUP = "pyimgano.recipes"
_EMPTY = inspect.Parameter.empty


# ---- what a recipe is given -----------------------------------------------------------
@dataclass(frozen=True)
class RecipeData:
    """The images of one part, for a recipe to look at.

    Parameters
    ----------
    images : Bunch
        As :func:`~pyimgano.datasets.load_folder` returns it. There may be no test images.
    dataset : str, default="custom"
        Name of the dataset in reports.

    See Also
    --------
    RecipeData.of : From a folder, a collection of good images, or a dataset.
    """

    images: Bunch
    dataset: str = "custom"

    @classmethod
    def of(cls, data: Any, X_validation: Any = None, *, category: str = "custom") -> RecipeData:
        """Take images in any of the forms in which they come.

        Parameters
        ----------
        data : str, Path, collection of images, Bunch, InspectionDataset or RecipeData
            A folder of images of good parts, with all folders below it; good images, such as an
            :class:`~pyimgano.inputs.ImageSequence` or an array; or a dataset with test images.
        X_validation : collection of images, default=None
            Other good images, to put thresholds by; only for good images without a test set.
        category : str, default="custom"
            Name of the part, for good images that are given themselves.

        Returns
        -------
        RecipeData
        """
        if isinstance(data, RecipeData):
            return data
        if isinstance(data, (Bunch, InspectionDataset)):
            if X_validation is not None:
                raise ValueError("X_validation: a dataset has its own validation images.")
            name = dataset_name(data)
            return cls(data.to_bunch() if isinstance(data, InspectionDataset) else data, name)
        if isinstance(data, (str, os.PathLike)):
            category = os.path.basename(os.path.abspath(data)) or category
            data = ImageSequence.from_folder(data, recursive=True)
        none = data[:0]
        return cls(
            Bunch(
                X_train=data,
                y_train=np.ones(_num_samples(data), int),
                X_validation=X_validation,
                X_test=none,
                y_test=np.zeros(0, int),
                masks_test=[],
                kinds_test=[],
                defect_types=(),
                category=category,
            ),
            "good images",
        )

    @property
    def category(self) -> str:
        """Name of the part."""
        return str(self.images.get("category", "custom"))

    @property
    def n_good(self) -> int:
        """Number of good training images."""
        return int(np.sum(np.asarray(self.images.y_train) == 1))

    @property
    def n_calibration(self) -> int:
        """Number of good images that thresholds are put by: validation images, if there are any."""
        validation = self.images.get("X_validation")
        return self.n_good if validation is None else _num_samples(validation)

    @property
    def has_test_defects(self) -> bool:
        """True if there are good and defective test images, by which models can be compared."""
        return {1, -1} <= set(np.asarray(self.images.y_test).tolist())

    @cached_property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Count the training images of each width and height; of files the header is read.

        Raises
        ------
        ImageReadError
            If a file cannot be read.
        """
        images = check_images(self.images.X_train)
        found = (images.size(i) for i in range(len(images)))
        return Counter((width, height) for height, width in found)

    @property
    def longest_side(self) -> int:
        """Pixels of the longest side of a training image."""
        return max(max(size) for size in self.sizes)


@dataclass(frozen=True)
class RecipeConfig:
    """A request to a recipe.

    Parameters
    ----------
    data : RecipeData
    options : mapping, default={}
        Parameters of the recipe in place of its defaults.
    fit_params : mapping, default={}
        Further arguments for ``fit`` of the detector, such as ``roi_mask``.
    """

    data: RecipeData
    options: Mapping[str, Any] = field(default_factory=dict)
    fit_params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The decisions of a recipe; nothing is fitted yet.

    Parameters
    ----------
    pipelines : mapping of str to Pipeline
        Not fitted, by the name that reports give them. Each begins with an
        :class:`~pyimgano.inputs.ImageFormatNormalizer` and ends in a calibrator. Of several, the
        best on the test images is kept.
    decisions : sequence of str
        What was decided and why, a sentence each.
    fit_params : mapping, default={}
        Further arguments for ``fit`` of the detector that the recipe decides on. A run in which
        the user gives other ones is refused.
    """

    pipelines: Mapping[str, Pipeline]
    decisions: tuple[str, ...] = ()
    fit_params: Mapping[str, Any] = field(default_factory=dict)

    def params_with(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put together the arguments for ``fit`` of the detector.

        Parameters
        ----------
        given : mapping
            What the user gives.

        Returns
        -------
        dict

        Raises
        ------
        RunError
            If the recipe has decided otherwise on one of them.
        """
        for name in given.keys() & self.fit_params.keys():
            one, other = given[name], self.fit_params[name]
            if not np.array_equal(np.squeeze(one), np.squeeze(other)):
                raise RunError(
                    f"{name}: the recipe takes what the saved pipeline was fitted with, which is "
                    "another one or none: leave it out, or train new networks."
                )
        return {**self.fit_params, **given}


# ---- a recipe -------------------------------------------------------------------------
class Recipe:
    """A way from images to a delivered pipeline, under a name.

    Parameters
    ----------
    name : str
        What it is called.
    function : callable
        ``function(data, *, parameter=default, ...) -> Plan`` looks at a :class:`RecipeData` and
        decides. Its keywords are what the recipe takes, described in its docstring.
    """

    def __init__(self, name: str, function: Callable[..., Plan]) -> None:
        self.name = name
        self.function = function

    def __repr__(self) -> str:
        return f"Recipe({self.name!r})"

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or self.name).strip().splitlines()[0]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Parameters of the recipe, by name."""
        found = inspect.signature(self.function).parameters
        keyword = inspect.Parameter.KEYWORD_ONLY
        return {key: value for key, value in found.items() if value.kind == keyword}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the recipe does not take.

        Parameters
        ----------
        options : mapping

        Raises
        ------
        UnknownParameterError
        """
        known = self.parameters
        for key in options:
            if key not in known:
                raise UnknownParameterError(
                    f"the recipe {self.name} has no parameter {key!r}.{did_you_mean(key, known)} "
                    f"It has {', '.join(known) or 'none'}."
                )

    def plan(self, config: RecipeConfig) -> Plan:
        """Decide what to do; nothing is fitted or written.

        Parameters
        ----------
        config : RecipeConfig

        Returns
        -------
        Plan

        Raises
        ------
        UnknownParameterError
            If the recipe has no such parameter.
        RunError
            If the arguments for ``fit`` contradict what the recipe has decided, or a model takes
            no region of interest.
        """
        self.check_options(config.options)
        plan = self.function(config.data, **config.options)
        if not isinstance(plan, Plan) or not plan.pipelines:
            raise PluginError(
                f"the recipe {self.name!r} cannot be used: {self.function.__qualname__} returned "
                f"a {type(plan).__name__}; it must return a Plan with at least one pipeline"
            )
        if plan.params_with(config.fit_params).get("roi_mask") is not None:
            _refuse_models_without_regions(plan)
        return plan

    def run(
        self,
        config: RecipeConfig,
        run_dir: RunDirectory | str | os.PathLike[str] | None,
        **options: Any,
    ) -> Any:
        """Decide, fit, calibrate, judge the test images if there are any, and write it all.

        Parameters
        ----------
        config : RecipeConfig
        run_dir : RunDirectory, str, Path or None
            An existing folder; None writes nothing.
        **options
            As for :func:`~pyimgano.recipes.carry_out`.

        Returns
        -------
        RecipeResult
        """
        from pyimgano.recipes._running import carry_out

        return carry_out(self.plan(config), config, run_dir, recipe=self.name, **options)


def _refuse_models_without_regions(plan: Plan) -> None:
    for name, pipeline in plan.pipelines.items():
        detector, _ = innermost(pipeline)
        # Other estimators say it themselves: an ensemble hands the mask on to its members.
        if isinstance(detector, BaseDetector) and not getattr(detector, "_takes_roi_mask", False):
            raise RunError(
                f"roi_mask: {name} judges images as a whole; take a model with heat maps "
                '("pyimgano models list --maps"), or crop the images.'
            )


# ---- all recipes ----------------------------------------------------------------------
_registered: dict[str, Recipe] = {}


def _builtin() -> dict[str, Recipe]:
    from pyimgano.recipes._shipped import SHIPPED

    return {name: Recipe(name, function) for name, function in SHIPPED.items()}


def _plugin(name: str, point: Any) -> Recipe:
    what = f"the plug-in for the recipe {name!r} ({_GROUP}: {point.value})"
    try:
        function = point.load()
    # Whatever foreign code raises, the other recipes must stay in reach.
    except Exception as error:
        raise PluginError(f"{what} cannot be used: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise PluginError(f"{what} is a {type(function).__name__}; it must be a function")
    return Recipe(name, function)


def find_recipe(name: str) -> Recipe:
    """Find a recipe by its name.

    Parameters
    ----------
    name : str

    Returns
    -------
    Recipe

    Raises
    ------
    UnknownRecipeError
        If there is none.
    """
    builtin = _builtin()
    for recipes in (_registered, builtin):
        if name in recipes:
            return recipes[name]
    plugins, _ = entry_points(_GROUP, "recipe", builtin)
    if name in plugins:
        return _plugin(name, plugins[name])
    known = sorted({*_registered, *builtin, *plugins})
    raise UnknownRecipeError(
        f"there is no recipe {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}."
    )


def list_recipes() -> list[str]:
    """Names of all recipes.

    Returns
    -------
    list of str
        Sorted; those of installed packages among them.

    Warns
    -----
    PluginWarning
        For each plug-in that is left out.

    Examples
    --------
    >>> from pyimgano.recipes import list_recipes
    >>> "industrial-adapt" in list_recipes()
    True
    """
    builtin = _builtin()
    plugins, problems = entry_points(_GROUP, "recipe", builtin)
    for problem in problems:
        warnings.warn(problem, PluginWarning, stacklevel=2)
    return sorted({*builtin, *plugins, *_registered})


def recipe_info(name: str, /) -> dict[str, Any]:
    """Describe a recipe in plain JSON types.

    Parameters
    ----------
    name : str
        One of :func:`list_recipes`.

    Returns
    -------
    dict
        ``name``, ``summary``, ``description``, and ``parameters``, which have by name
        ``required``, ``default`` and ``description``.

    Raises
    ------
    UnknownRecipeError
        If there is no recipe of that name.

    Examples
    --------
    >>> from pyimgano.recipes import recipe_info
    >>> recipe_info("industrial-adapt")["parameters"]["quantile"]["default"]
    0.98
    """
    recipe = find_recipe(name)
    doc = inspect.getdoc(recipe.function) or ""
    text = re.split(r"^(?:Parameters|Returns|Raises|Notes|Examples)\n-+\n", doc, flags=re.M)[0]
    return {
        "name": name,
        "summary": recipe.summary,
        "description": "\n".join(text.strip().splitlines()[1:]).strip(),
        "parameters": {
            key: {
                "required": parameter.default is _EMPTY,
                "default": None if parameter.default is _EMPTY else as_json(parameter.default),
                "description": _described(doc, key),
            }
            for key, parameter in recipe.parameters.items()
        },
    }


def _described(doc: str, name: str) -> str | None:
    """Description of a parameter in a docstring of numpydoc's form."""
    found = re.search(rf"^{re.escape(name)} : .*\n((?:    .*\n?|\n)+)", doc, flags=re.M)
    return None if found is None else " ".join(found[1].split())


def register_recipe(
    name: str, function: Callable[..., Plan] | None = None, /, *, overwrite: bool = False
) -> Any:
    """Add a recipe of your own, in this process.

    Parameters
    ----------
    name : str
        What it shall be called.
    function : callable, default=None
        As for :class:`Recipe`. Without it, the result is a decorator.
    overwrite : bool, default=False
        Replace a recipe of that name; otherwise it is an error.

    Returns
    -------
    callable
        The function, or a decorator that returns it.

    Raises
    ------
    ValueError
        If there is a recipe of that name already.

    Notes
    -----
    An installed package adds recipes to every process through entry points of the group
    ``pyimgano.recipes``: the name is that of the recipe, the object a function as here. It is
    loaded when it is needed.

    Examples
    --------
    >>> from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
    >>> from pyimgano.recipes import Plan, list_recipes, register_recipe
    >>> from sklearn.pipeline import make_pipeline
    >>> @register_recipe("line3")
    ... def line3(data, *, quantile=0.99):
    ...     '''PatchCore as it runs on line 3.'''
    ...     model = ThresholdCalibrator(PatchCoreDetector("filterbank"), quantile=quantile)
    ...     return Plan({"PatchCore": make_pipeline(ImageFormatNormalizer(), model)})
    >>> "line3" in list_recipes()
    True
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a recipe must be a string, got {name!r}.")
    if function is None:

        def decorator(function: Callable[..., Plan]) -> Callable[..., Plan]:
            return register_recipe(name, function, overwrite=overwrite)

        return decorator
    if not callable(function):
        raise TypeError(
            f"{name}: a recipe is registered as a function, got a {type(function).__name__}."
        )
    builtin = _builtin()
    taken = name in builtin or name in _registered
    if not overwrite and (taken or name in entry_points(_GROUP, "recipe", builtin)[0]):
        raise ValueError(
            f"there is a recipe {name!r} already; choose another name, or replace it with "
            "overwrite=True."
        )
    _registered[name] = Recipe(name, function)
    return function


def need_test_defects(data: RecipeData, recipe: str) -> None:
    """Refuse data by which models cannot be compared.

    Parameters
    ----------
    data : RecipeData
    recipe : str
        Name of the recipe that needs them.

    Raises
    ------
    DatasetError
    """
    if not data.has_test_defects:
        raise DatasetError(
            f"{recipe} compares models on test images, good ones and defective ones, and "
            f"{data.category} has none: give a dataset with a test set, such as a folder with "
            "train/good, test/good and test/<kind of defect>."
        )
