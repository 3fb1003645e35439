"""Pipelines and meta-estimators: the one way down to the detector inside."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from sklearn.base import is_outlier_detector
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline

__all__ = [
    "all_parts",
    "extracts_defects",
    "find_calibrator",
    "find_defects",
    "find_parts",
    "first_step",
    "innermost",
    "input_of",
    "is_calibrator",
    "makes_maps",
    "no_detector",
    "steps_before",
    "walk",
]

# Attributes in which meta-estimators keep the estimator that they have fitted.
_FITTED = ("best_estimator_", "estimator_")


def walk(estimator: Any, X: Any = None) -> Iterator[tuple[Any, Any]]:
    """Go through nested estimators, from the outermost to the detector inside.

    Pipelines, ``ThresholdCalibrator``, ``PixelThresholdCalibrator``, ``FrozenEstimator`` and
    searches are entered, in any nesting. Of a fitted meta-estimator the fitted estimator is taken,
    otherwise its parameter. A calibrator without an estimator of its own, at the end of a
    pipeline, judges the score column of the step before it; that step is then yielded after the
    calibrator.

    Parameters
    ----------
    estimator : estimator
        Fitted or not.
    X : input of the estimator, default=None
        Taken through the steps before each estimator, which must be fitted then. None leaves
        the steps alone.

    Yields
    ------
    estimator : estimator
    X : input of that estimator, or None
    """
    while estimator is not None:
        yield estimator, X
        if isinstance(estimator, Pipeline):
            before, estimator = steps_before(estimator)
            if is_calibrator(estimator) and _inside(estimator) is None and before:
                yield estimator, None
                *before, estimator = before
            if X is not None:
                for step in before:
                    X = step.transform(X)
        else:
            estimator = _inside(estimator)


def steps_before(pipeline: Pipeline) -> tuple[list[Any], Any]:
    """Split a pipeline into the steps that transform and the last one.

    Parameters
    ----------
    pipeline : Pipeline

    Returns
    -------
    before : list of transformer
        Without those that are None or ``"passthrough"``.
    last : estimator
    """
    *before, last = [step for _, step in pipeline.steps]
    return [step for step in before if step is not None and step != "passthrough"], last


def _inside(estimator: Any) -> Any:
    # Only meta-estimators that pass on the scores of the estimator inside unchanged are entered.
    # Any other may change them, and counts as a detector itself.
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    passes_scores_on = is_calibrator(estimator) or extracts_defects(estimator)
    if not (passes_scores_on or isinstance(estimator, BaseSearchCV)):
        return None
    for name in _FITTED:
        inner = vars(estimator).get(name)
        if inner is not None:
            return inner
    given = estimator.estimator
    return given if hasattr(given, "fit") and is_outlier_detector(given) else None


def innermost(estimator: Any, X: Any = None) -> tuple[Any, Any]:
    """Find the detector inside, and its input.

    Parameters
    ----------
    estimator : estimator
        Any nesting of pipelines and meta-estimators.
    X : input of the estimator, default=None

    Returns
    -------
    detector : estimator
    X : input of the detector
    """
    return list(walk(estimator, X))[-1]


def is_calibrator(estimator: Any) -> bool:
    """Tell whether an estimator is a ``ThresholdCalibrator``, which builds on this module.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    bool
    """
    return hasattr(type(estimator), "p_value_of_scores")


def find_calibrator(estimator: Any) -> Any:
    """Find the outermost threshold calibrator in any nesting.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    ThresholdCalibrator or None
    """
    return next((one for one, _ in walk(estimator) if is_calibrator(one)), None)


def extracts_defects(estimator: Any) -> bool:
    """Tell whether an estimator is a ``PixelThresholdCalibrator``, which builds on this module.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    bool
    """
    return hasattr(type(estimator), "iter_defects")


def find_defects(estimator: Any) -> Any:
    """Find the outermost estimator in any nesting that turns anomaly maps into defects.

    Parameters
    ----------
    estimator : estimator
        If it is fitted, ``extractor_.extract(anomaly_map)`` of what is found gives the regions of
        a map of this estimator.

    Returns
    -------
    PixelThresholdCalibrator or None
    """
    return next((one for one, _ in walk(estimator) if extracts_defects(one)), None)


def input_of(calibrator: Any, estimator: Any, X: Any) -> Any:
    """Take samples through the steps before a calibrator.

    Parameters
    ----------
    calibrator : ThresholdCalibrator or PixelThresholdCalibrator
        One that is inside ``estimator``.
    estimator : fitted estimator
        Any nesting.
    X : input of ``estimator``

    Returns
    -------
    input of the calibrator
        Column scores for one that judges those of the step before it.
    """
    for one, data in walk(estimator, X):
        if one is calibrator:
            return data
        if isinstance(one, Pipeline) and one.steps[-1][1] is calibrator:
            return one[:-1].transform(data) if len(one) > 1 else data
    raise ValueError(f"this {type(calibrator).__name__} is not inside {type(estimator).__name__}.")


def makes_maps(estimator: Any) -> bool:
    """Tell whether the detector inside has anomaly maps, fitted or not.

    Parameters
    ----------
    estimator : estimator
        Any nesting of pipelines and meta-estimators.

    Returns
    -------
    bool
    """
    detector, _ = innermost(estimator)
    # A calibrator always has the method, but no map if it only judges a column of scores.
    return hasattr(detector, "score_and_map") and not is_calibrator(detector)


def no_detector(estimator: Any, role: str) -> str:
    """Write the error message for something that is no outlier detector, with the way to one.

    Parameters
    ----------
    estimator : object
        What was given.
    role : str
        What it was given as.

    Returns
    -------
    str
    """
    name = getattr(estimator, "__name__", type(estimator).__name__)
    if isinstance(estimator, type):
        return f"{role} is the class {name}; give an instance, {name}(...)."
    if isinstance(estimator, str):
        return (
            f"{role} is the text {estimator!r}; give an estimator. A model of the registry is "
            f"pyimgano.create_model({estimator!r})."
        )
    pyod = sys.modules.get("pyod.models.base")  # loaded, if this is one of its models
    if pyod is not None and isinstance(estimator, pyod.BaseDetector):
        return (
            f"{role} is the PyOD model {name}, which has no score_samples; wrap it: "
            f"pyimgano.detectors.PyODDetector({name}(...))."
        )
    return (
        f"{role} ({name}) is no outlier detector with fit and score_samples. Of scikit-learn's, "
        "LocalOutlierFactor needs novelty=True."
    )


def first_step(estimator: Any) -> Any:
    """Find the step that the input reaches first.

    Parameters
    ----------
    estimator : estimator
        Any nesting of pipelines and meta-estimators, fitted or not.

    Returns
    -------
    estimator
        A transformer, or the detector itself.
    """
    for one, _ in walk(estimator):
        if isinstance(one, Pipeline):
            before, _ = steps_before(one)
            if before:
                return first_step(before[0])
    last, _ = innermost(estimator)
    folds = getattr(last, "fold_estimators", None)  # models of folds that are scored together
    return first_step(folds[0]) if folds else last


# Of them a fitted estimator may hold very many.
_NO_PARTS = (bytes, float, int, str)


def find_parts(estimator: Any, kind: type) -> list[Any]:
    """Find every estimator of a kind inside another one, fitted copies included.

    Parameters
    ----------
    estimator : estimator
    kind : type
        Their class.

    Returns
    -------
    list of estimators
        Each once, the outer ones before those inside them.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = deque([estimator])
    while waiting:
        one = waiting.popleft()
        if isinstance(one, _NO_PARTS) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, kind):
            found.append(one)
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif hasattr(one, "get_params") and not isinstance(one, type):
            waiting += vars(one).values()
    return found


def all_parts(estimator: Any) -> list[Any]:
    """List an estimator and every estimator among its parameters, at any depth.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    list of estimators
        The outer ones before those inside them.
    """
    inner = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    return [
        estimator,
        *(one for one in inner if hasattr(one, "get_params") and not isinstance(one, type)),
    ]
