"""Drift: whether the line still shows what the threshold was calibrated on.

:class:`DriftMonitor` watches the good parts of a line, in their order, and raises an alarm where
their scores, or the brightness, contrast or sharpness of their images, are no longer those of
the images that were calibrated on. The share of false alarms is stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from scipy.special import ndtri
from sklearn.exceptions import NotFittedError
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.validation import _num_samples

from pyimgano._nesting import find_calibrator
from pyimgano.exceptions import TooFewImagesError
from pyimgano.inference import InferenceResult
from pyimgano.inputs import check_images
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._clock import utc_now
from pyimgano.utils._fitting import restored_on_error
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import (
    Array,
    Either,
    Flag,
    ListOf,
    Map,
    Maybe,
    MayLack,
    Number,
    Object,
    OneOf,
    Plain,
    Sizes,
    State,
    TupleOf,
    fail,
)
from pyimgano.utils._warning import warn_user

__all__ = ["IMAGE_STATISTICS", "DriftMonitor", "image_statistics"]

#: Names of the numbers that :func:`image_statistics` computes, in their order.
IMAGE_STATISTICS = ("brightness", "contrast", "sharpness")

# Quantiles of the scores and of the images that blocks of parts report.
_QUANTILES = (0.05, 0.5, 0.95)
# Blocks of parts that are kept; older ones are forgotten.
_MOST_BLOCKS = 1000
# Parts that a saved monitor may have seen: sums of their counts stay integers.
_MOST_PARTS = 2**40
# Parts whose mean an alarm reports.
_RECENT = 20
# Shifts that are bet on, in standard deviations of the normal scores of p-values.
_SHIFTS = (0.5, 1.0, 2.0)
_SIDES = ("higher", "lower", "wider")
_BETS = tuple((side, shift) for side in _SIDES for shift in _SHIFTS)
# Shares of failing parts that are bet on, between the largest normal share and 1.
_STEPS = tuple(0.1 * k for k in range(1, len(_BETS) + 1))
# Evidence of an image statistic that lets an alarm of the scores point to the camera.
_SOME_EVIDENCE = 10.0


def image_statistics(image: np.ndarray) -> dict[str, float]:
    """Compute brightness, contrast and sharpness of an image.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3) or (height, width), uint8
        RGB or gray, as the camera gives it.

    Returns
    -------
    dict
        ``"brightness"``: mean of the gray values, 1.0 is white. ``"contrast"``: their standard
        deviation divided by their mean, which an exposure leaves as it is. ``"sharpness"``: root
        mean square of the Laplacian divided by the standard deviation, which falls where the
        lens is out of focus and rises with noise. Both are 0 for an image of one color.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.monitoring import image_statistics
    >>> image = np.zeros((8, 8), dtype=np.uint8)
    >>> image[:, 4:] = 102
    >>> found = image_statistics(image)
    >>> round(found["brightness"], 6), round(found["contrast"], 6), round(found["sharpness"], 6)
    (0.2, 1.0, 1.0)
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            "image must be uint8 of shape (height, width, 3) or (height, width), got "
            f"{image.dtype} of shape {image.shape}. ImageFormatNormalizer converts other formats."
        )
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(gray))
    steps = float(cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))[1][0, 0])
    return {
        "brightness": mean / 255.0,
        "contrast": deviation / mean if mean else 0.0,
        "sharpness": steps / deviation if deviation else 0.0,
    }


class DriftMonitor(CheckedStateMixin):
    """Watch the good parts of a line and tell when they are no longer those calibrated on.

    Parts are given in the order in which they were made. Each one that passes is compared with
    the calibration images and all parts before it; where no order of them would have been as
    likely as any other, evidence grows until there is an alarm. As long as the line does not
    change, the probability that there is ever an alarm, in any number of parts, is at most
    ``false_alarm_rate``.

    Parameters
    ----------
    false_alarm_rate : float in (0, 1), default=0.01
        Largest probability of an alarm, ever, while good parts come as in calibration. It is
        divided evenly between the statistics that are watched.
    max_fail_rate : float in (0, 1), default=None
        Largest share of parts that fail in normal operation, good and bad ones together. An
        alarm is raised where more fail. With None that is not watched, and a change that makes
        all parts fail leaves no good parts to notice it by.
    block_size : int, default=100
        Number of parts for which quantiles are written down together, such as an hour's.
    random_state : int, RandomState or None, default=0
        Seed of the random numbers that break ties.

    Attributes
    ----------
    statistics_ : list of str
        Those that are watched: ``"score"``; ``"brightness"``, ``"contrast"`` and
        ``"sharpness"`` if images were given to ``fit``; ``"failed"`` with ``max_fail_rate``.
    threshold_ : float
        Threshold of the calibrator given to ``fit``.
    n_parts_ : int
        Number of parts seen.
    evidence_ : dict
        By statistic, the value of its martingale; there is an alarm at ``limit_``.
    limit_ : float
        Number of statistics divided by ``false_alarm_rate``.
    alarms_ : list of dict
        All alarms so far, as from :meth:`update`.
    blocks_ : list of dict
        For each of the last 1000 full blocks of parts: ``"first_part"``, ``"last_part"``,
        ``"time"``, the numbers ``"n_watched"`` and ``"n_errors"``, and the 0.05, 0.5 and 0.95
        quantiles of scores and images of all its parts, the failing ones included.
    calibration_quantiles_ : dict
        The same quantiles of the calibration images, to compare those of blocks with.

    Notes
    -----
    **Parts that are watched.** Defects are the product's, not a drift. Watched are parts whose
    score is below ``b``, the calibration score that the threshold stands at, or the largest one
    below the threshold if it stands at none. Such good parts are exchangeable with
    calibration images that score below ``b``, which are the ones they are compared with.

    **p-values.** The values of ``n`` calibration images divide the line into ``n + 1`` gaps. If
    ``c_j`` of the parts so far fell into gap ``j``, the next one falls there with probability
    ``(1 + c_j) / sum(1 + c)``. So the smoothed conformal p-value ``p`` of each part, from its gap
    and one random number, is uniform and independent of all earlier ones [1]_, although all parts
    are compared with the same few images. What the line has shown counts as much as these.

    **Evidence.** With ``z`` the normal score of the part, the ``1 - p`` quantile of the standard
    normal distribution, a bet multiplies its stake by ``exp(d * z - d**2 / 2)``, the same of
    ``-z``, or the mean of both, for ``d`` of 0.5, 1 and 2: on values that are higher, lower, or
    farther apart. A stake of 1 is spread over these bets and over all times at which a drift
    may begin; of the stake, ``1 / (1 + log(1 + t))`` is still held back after ``t`` parts. The
    total is a martingale [2]_, and by Ville's inequality it ever reaches ``limit_`` with
    probability at most ``1 / limit_``. Drift that begins late is noticed nearly as fast as one
    that begins at once, and no horizon needs to be chosen.

    **After an alarm** the statistic raises no other one until :meth:`restart`. The bound is
    for the time from ``fit``, or from a restart for reasons other than the values seen.

    **Calibration images** have to be exchangeable with new parts too. Scores of held-out images
    are, out-of-sample scores of training images only as far as the detector gets them right
    (:meth:`~pyimgano.calibration.ThresholdCalibrator.recalibrate`, or ``cv="prefit"``).

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005.
    .. [2] V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson, A. Gammerman, "Retrain or
       not retrain: conformal test martingales for change-point detection", COPA, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.calibration import ThresholdCalibrator
    >>> from pyimgano.monitoring import DriftMonitor
    >>> rng = np.random.RandomState(0)
    >>> calibrator = ThresholdCalibrator(quantile=0.95).fit(rng.normal(size=(100, 1)))
    >>> monitor = DriftMonitor(false_alarm_rate=0.05).fit(calibrator)
    >>> monitor.update(calibrator.p_value(rng.normal(size=(500, 1))))
    []
    >>> (alarm,) = monitor.update(calibrator.p_value(rng.normal(0.7, size=(500, 1))))
    >>> alarm["statistic"], alarm["direction"], alarm["part"] < 600
    ('score', 'higher', True)
    """

    _parameter_constraints: dict = {
        "false_alarm_rate": [Interval(Real, 0, 1, closed="neither")],
        "max_fail_rate": [Interval(Real, 0, 1, closed="neither"), None],
        "block_size": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }
    _fitted_state = {
        "false_alarm_rate": Number(0, 1),
        "max_fail_rate": Maybe(Number(0, 1)),
        "block_size": Number(1, whole=True),
        "random_state": Maybe(Either(Number(0, 2**32 - 1, whole=True), Object("RandomState"))),
        "statistics_": MayLack(ListOf(OneOf("score", *IMAGE_STATISTICS, "failed"), "statistics")),
        "calibration_quantiles_": MayLack(Map(str, ListOf(Number(), len(_QUANTILES)))),
        "alarms_": MayLack(ListOf(Map(str, Plain()))),
        "blocks_": MayLack(ListOf(Map(str, Plain()))),
        "n_parts_": MayLack(Number(0, _MOST_PARTS, whole=True)),
        "_n_calibrated": MayLack(Number(2, whole=True)),
        "_bound": MayLack(Number()),
        "threshold_": MayLack(Number()),
        "_known": MayLack(Array("float64", "ranked", "n")),
        "_ties": MayLack(Array("float64", "ranked", "n", low=0.0, high=1.0)),
        "_counts": MayLack(Array("int64", "ranked", None, low=0, high=_MOST_PARTS)),
        "_n_seen": MayLack(Array("int64", "statistics", low=0, high=_MOST_PARTS)),
        "_stakes": MayLack(Array("float64", "statistics", len(_BETS), low=0.0)),
        "_runs": MayLack(Array("float64", "statistics", len(_BETS), low=0.0)),
        "_run_starts": MayLack(Array("int64", "statistics", len(_BETS), low=0, high=_MOST_PARTS)),
        "_stopped": MayLack(ListOf(Flag(), "statistics")),
        "_recent": MayLack(ListOf(ListOf(Number()), "statistics")),
        "_block": MayLack(ListOf(TupleOf(Flag(), Maybe(Map(str, Number()))))),
        "_seed": MayLack(Number(0, 2**31, whole=True)),
    }

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        for name in ("false_alarm_rate", "max_fail_rate"):
            if state[name] in (0, 1):
                fail(f"{cls.__name__}.{name}", "is not between 0 and 1")
        fitted = [name for name in cls._fitted_state if name not in cls._parameter_constraints]
        missing = [name for name in fitted if name not in state]
        if len(missing) == len(fitted):
            return
        if missing:
            fail(cls.__name__, f"lacks {missing[0]}")
        known, counts = state["_known"], state["_counts"]
        ranked = ["score", *(IMAGE_STATISTICS if len(known) > 1 else ())]
        watched = [*ranked, *["failed"] * (state["max_fail_rate"] is not None)]
        if state["statistics_"] != watched or len(ranked) != len(known):
            fail(f"{cls.__name__}.statistics_", "do not go with what parts are compared with")
        if list(state["calibration_quantiles_"]) != ranked:
            fail(f"{cls.__name__}.calibration_quantiles_", "are not those of the statistics")
        names = [{one, *ranked[1:]} for one in ("score", "p_value")]
        if not all(row is None or set(row) in names for _, row in state["_block"]):
            fail(f"{cls.__name__}._block", "has parts without what is watched")
        if counts.shape[1] != known.shape[1] + 1:
            fail(f"{cls.__name__}._counts", "are not one more than there are known values")
        if known.shape[1] >= state["_n_calibrated"]:
            fail(f"{cls.__name__}._n_calibrated", "is no larger than the number of known values")
        if (np.diff(known, axis=1) < 0).any():
            fail(f"{cls.__name__}._known", "is not in order")

    def __init__(
        self,
        *,
        false_alarm_rate: float = 0.01,
        max_fail_rate: float | None = None,
        block_size: int = 100,
        random_state: Any = 0,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.max_fail_rate = max_fail_rate
        self.block_size = block_size
        self.random_state = random_state

    # ---- what is compared with ----------------------------------------------------------
    @restored_on_error
    def fit(self, calibrator: Any, images: Any = None) -> DriftMonitor:
        """Take over what parts are compared with, and start watching.

        Parameters
        ----------
        calibrator : fitted estimator
            A :class:`~pyimgano.calibration.ThresholdCalibrator`, or any nesting that has one.
            Its scores and its threshold are taken, not the model.
        images : sequence of paths, ImageSequence, uint8 RGB images or dicts, default=None
            The images that its ``calibration_scores_`` belong to, in their order: the good
            images given to ``fit``, or to ``recalibrate``. None watches the scores alone. For
            arrays in other formats: what ``ImageFormatNormalizer`` makes of them. Dicts are
            what :func:`image_statistics` has computed of them.

        Returns
        -------
        self

        Raises
        ------
        TooFewImagesError
            If fewer than two calibration scores are below the threshold.

        Warns
        -----
        UserWarning
            If the calibration scores are those of the training images. The rate of false alarms
            is then as stated only as far as the detector gets these scores right.
        """
        names = ("false_alarm_rate", "max_fail_rate", "block_size", "random_state")
        given = {name: getattr(self, name) for name in names}
        validate_parameter_constraints(self._parameter_constraints, given, type(self).__name__)
        found = find_calibrator(calibrator)
        if found is None:
            raise TypeError(
                f"calibrator must be a fitted ThresholdCalibrator or hold one, got "
                f"{type(calibrator).__name__}: what good parts look like is taken from its "
                "calibration_scores_. ThresholdCalibrator().fit(scores.reshape(-1, 1)) makes one "
                "of scores alone."
            )
        if not found._calibrated_on_new_images:
            warn_user(
                "parts are compared with out-of-sample scores of training images, which may be on "
                "a slightly different scale than those of new parts; after some hundred parts "
                "that may raise an alarm. Recalibrate with good images that the model has not "
                "seen, and fit the monitor to them.",
                UserWarning,
            )
        values = {"score": np.asarray(found.calibration_scores_, dtype=np.float64)}
        if images is not None:
            values.update(_statistics_of_all(images, len(values["score"])))
        scores = np.sort(values["score"])
        # A conformal threshold is the next smaller float of the score it stands at.
        at = int(np.searchsorted(scores, np.nextafter(found.threshold_, np.inf), side="right"))
        watched = values["score"] < (scores[at - 1] if at else -np.inf)
        if watched.sum() < 2:
            raise TooFewImagesError(
                f"only {watched.sum()} of {len(scores)} calibration scores are below the "
                f"threshold {found.threshold_:.4g}, and a monitor compares with at least 2: raise "
                "the threshold, or calibrate on more good images."
            )
        rng = check_random_state(self.random_state)
        known = np.stack([one[watched] for one in values.values()])
        ties = rng.uniform(size=known.shape)
        order = np.lexsort((ties, known))
        self._seed = int(rng.randint(2**31 - 1))
        self._known = np.take_along_axis(known, order, axis=1)
        self._ties = np.take_along_axis(ties, order, axis=1)
        self._bound = float(scores[at - 1])
        self.threshold_ = float(found.threshold_)
        self._n_calibrated = len(scores)
        self.statistics_ = [*values, *["failed"] * (self.max_fail_rate is not None)]
        self.calibration_quantiles_ = {
            name: np.quantile(one, _QUANTILES).tolist() for name, one in values.items()
        }
        self.alarms_: list[dict[str, Any]] = []
        self.blocks_: list[dict[str, Any]] = []
        self._block: list[tuple[bool, dict[str, float] | None]] = []
        self.n_parts_ = 0
        return self.restart()

    def restart(self, *, keep_parts: bool = False) -> DriftMonitor:
        """Start watching anew, after the cause of an alarm was dealt with.

        Parameters
        ----------
        keep_parts : bool, default=False
            Whether the parts seen so far stay among those that new ones are compared with. False
            for a line that is again as it was; True where the alarm was about something that
            may be so.

        Returns
        -------
        self
            ``alarms_``, ``blocks_`` and ``n_parts_`` go on.
        """
        if "statistics_" not in vars(self):
            raise NotFittedError("this DriftMonitor is not fitted: call fit first.")
        n, n_ranked = len(self.statistics_), len(self._known)
        if not keep_parts or "_counts" not in vars(self):
            self._counts = np.zeros((n_ranked, self._known.shape[1] + 1), dtype=np.int64)
        self._n_seen = np.zeros(n, dtype=np.int64)
        self._stakes = np.zeros((n, len(_BETS)))
        self._runs = np.zeros((n, len(_BETS)))
        self._run_starts = np.full((n, len(_BETS)), self.n_parts_, dtype=np.int64)
        self._stopped = [False] * n
        self._recent: list[list[float]] = [[] for _ in range(n)]
        return self

    @property
    def limit_(self) -> float:
        """Evidence at which a statistic raises an alarm."""
        return len(self.statistics_) / self.false_alarm_rate

    @property
    def evidence_(self) -> dict[str, float]:
        """Value of the martingale of each statistic, 1 at the beginning."""
        held_back = 1.0 / (1.0 + np.log1p(self._n_seen))
        return dict(zip(self.statistics_, (self._stakes.sum(axis=1) + held_back).tolist()))

    # ---- the parts ----------------------------------------------------------------------
    def update(self, parts: Any, images: Any = None) -> list[dict[str, Any]]:
        """See the next parts, in the order in which they were made.

        Parameters
        ----------
        parts : sequence of InferenceResult or dict, or array-like of shape (n_parts,)
            Results of :func:`pyimgano.inference.infer`, or the records that the command writes,
            of which the score is used; those with an error are only counted. Or the p-values of
            the calibrator that was given to ``fit``.
        images : as in ``fit``, default=None
            The images of these parts. Needed if images were given to ``fit``, unless the records
            hold ``"brightness"``, ``"contrast"`` and ``"sharpness"`` of
            :func:`image_statistics`. Those of records with an error are not looked at.

        Returns
        -------
        list of dict
            One for each alarm, in plain JSON types: ``"statistic"``; ``"part"``, the number of
            the part, counted from 0 since ``fit``; ``"since"``, the estimated number of the first
            part that is different; ``"direction"``, ``"higher"``, ``"lower"`` or ``"wider"``;
            ``"evidence"`` and ``"limit"``; ``"recent"``, the mean of up to 20 parts since then,
            None where only p-values were given, and ``"calibration"``, the 0.05, 0.5 and 0.95
            quantiles of the calibration images;
            ``"points_to"``, ``"camera"``, ``"product"`` or ``"unknown"``, a hint; ``"message"``
            in words; and ``"time"``.

        Raises
        ------
        ValueError
            If the parts are not as described; none of them is counted then.
        """
        if "statistics_" not in vars(self):
            raise NotFittedError("this DriftMonitor is not fitted: call fit first.")
        rows = self._read(parts, images)
        alarms = [alarm for row in rows for alarm in self._see(row)]
        self.alarms_ = [*self.alarms_, *alarms]
        return alarms

    def _read(self, parts: Any, images: Any) -> list[dict[str, float] | None]:
        """Check the parts, and return the numbers of each; None for one without a score."""
        if isinstance(parts, (InferenceResult, Mapping, str)):
            raise TypeError("parts must be a sequence of results; for a single one give [result].")
        n = _num_samples(parts)
        if images is not None and _num_samples(images) != n:
            raise ValueError(f"there are {n} parts and {_num_samples(images)} images.")
        if n and all(isinstance(part, (InferenceResult, Mapping)) for part in parts):
            parts = [one.to_dict() if isinstance(one, InferenceResult) else one for one in parts]
            rows = [
                None if "error" in part else {"score": _number_of(part, "score", i)}
                for i, part in enumerate(parts)
            ]
        else:
            rows = self._p_values(parts)
            parts = [{}] * n
        needed = [name for name in self.statistics_ if name in IMAGE_STATISTICS]
        if images is not None:
            images = sliceable(images)
        for i, row in enumerate(rows if needed else ()):
            if row is None:
                continue
            if all(name in parts[i] for name in needed):
                row.update({name: _number_of(parts[i], name, i) for name in needed})
            elif images is None:
                raise ValueError(
                    f"this DriftMonitor watches {', '.join(needed)}, and part {i} comes without "
                    "them: give update the images as well, or fit without images."
                )
            else:
                row.update(image_statistics(check_images(_safe_indexing(images, [i]))[0]))
        return rows

    def _p_values(self, parts: Any) -> list[dict[str, float] | None]:
        try:
            p_values = np.asarray(parts, dtype=np.float64)
        except (TypeError, ValueError):
            p_values = np.empty((0, 0))
        if p_values.ndim != 1:
            raise ValueError("parts must be results of infer, or p-values of shape (n_parts,).")
        ranks = p_values * (self._n_calibrated + 1)
        right = (np.abs(ranks - np.rint(ranks)) < 1e-6) & (ranks > 0.5) & (p_values <= 1)
        if not right.all():
            i = int(np.argmin(right))
            raise ValueError(
                f"part {i} has the p-value {p_values[i]}, and those of the calibrator given to fit "
                f"are multiples of 1 / {self._n_calibrated + 1}, at most 1: give p_value(X) of "
                "that calibrator, or results with scores."
            )
        return [{"p_value": value} for value in p_values.tolist()]

    def _see(self, row: dict[str, float] | None) -> list[dict[str, Any]]:
        part = self.n_parts_
        self.n_parts_ += 1
        alarms = []
        watched = row is not None and self._is_watched(row)
        self._block.append((watched, row))
        if row is not None:
            # A seed for each part: results do not depend on how parts are dealt out to calls.
            random = np.random.default_rng([self._seed, part]).random((len(self._known), 2))
            for k, name in enumerate(self.statistics_):
                if not (watched or name == "failed"):
                    continue
                if name == "failed":
                    failed = row["score"] > self.threshold_ if "score" in row else not watched
                    factors, values = self._bet_on_failing(failed), [float(failed)]
                else:
                    p, q = self._smoothed_p_value(k, row, *random[k])
                    factors, values = _bet(p, q), [row[name]] if name in row else []
                if self._stopped[k]:  # parts are counted on, as restart may keep them
                    continue
                self._recent[k] = [*self._recent[k], *values][-_RECENT:]
                if self._is_too_much(k, factors, part):
                    self._stopped[k] = True
                    alarms.append(self._alarm(k, part))
        if len(self._block) >= self.block_size:
            self.blocks_ = [*self.blocks_[1 - _MOST_BLOCKS :], self._summary()]
            self._block = []
        return alarms

    def _is_watched(self, row: dict[str, float]) -> bool:
        if "score" in row:
            return row["score"] < self._bound
        return self._gap_of_p_value(row["p_value"]) <= self._known.shape[1]

    def _gap_of_p_value(self, p_value: float) -> int:
        """Return how many calibration scores are smaller."""
        return self._n_calibrated + 1 - round(p_value * (self._n_calibrated + 1))

    def _smoothed_p_value(
        self, k: int, row: dict[str, float], tie: float, share: float
    ) -> tuple[float, float]:
        """Return the p-value of a watched part and 1 minus it, and count the part."""
        name, counts = self.statistics_[k], self._counts[k]
        if name in row:
            known = self._known[k]
            gap = int(np.searchsorted(known, row[name], side="left"))
            last = int(np.searchsorted(known, row[name], side="right"))
            gap += int(np.searchsorted(self._ties[k, gap:last], tie))
        else:
            gap = self._gap_of_p_value(row["p_value"])
        weights = 1 + counts
        above, here, below = weights[gap + 1 :].sum(), weights[gap], weights[:gap].sum()
        share = max(share, 2.0**-53)  # neither of the two is 0 then
        total = above + here + below
        counts[gap] += 1
        return (above + (1.0 - share) * here) / total, (below + share * here) / total

    def _bet_on_failing(self, failed: bool) -> np.ndarray:
        assert self.max_fail_rate is not None
        normal = self.max_fail_rate
        shares = normal + (1.0 - normal) * np.array(_STEPS)
        # At most 1 in expectation for every share of failing parts up to the normal one.
        return shares / normal if failed else (1.0 - shares) / (1.0 - normal)

    def _is_too_much(self, k: int, factors: np.ndarray, part: int) -> bool:
        """Let the stakes of a statistic win or lose, and tell whether there is an alarm."""
        t = int(self._n_seen[k])
        held_back = 1.0 / (1.0 + math.log1p(t))
        still = 1.0 / (1.0 + math.log1p(t + 1))
        fresh = (held_back - still) / len(_BETS)
        self._stakes[k] = (self._stakes[k] + fresh) * factors
        self._n_seen[k] = t + 1
        begins = self._runs[k] <= 1.0
        self._run_starts[k, begins] = part
        self._runs[k] = np.where(begins, 1.0, self._runs[k]) * factors
        return bool(self._stakes[k].sum() + still >= self.limit_)

    # ---- what is reported ---------------------------------------------------------------
    def _alarm(self, k: int, part: int) -> dict[str, Any]:
        name, best = self.statistics_[k], int(np.argmax(self._runs[k]))
        direction = "higher" if name == "failed" else _BETS[best][0]
        recent = self._recent[k]
        since = int(self._run_starts[k, best])
        latest = recent[-max(1, part + 1 - since) :]
        alarm = {
            "statistic": name,
            "part": part,
            "since": since,
            "direction": direction,
            "evidence": self.evidence_[name],
            "limit": self.limit_,
            "recent": float(np.mean(latest)) if latest else None,
            "calibration": self.calibration_quantiles_.get(name),
            "points_to": self._points_to(name),
            "time": utc_now(),
        }
        return {**alarm, "message": _in_words(alarm, self.max_fail_rate)}

    def _points_to(self, name: str) -> str:
        if name in IMAGE_STATISTICS:
            return "camera"
        evidence = self.evidence_
        of_images = [evidence[one] for one in IMAGE_STATISTICS if one in evidence]
        if not of_images:
            return "unknown"
        if name == "failed":
            return "camera" if self._failed_look_different() else "product"
        return "camera" if max(of_images) >= _SOME_EVIDENCE else "product"

    def _failed_look_different(self) -> bool:
        """Tell whether most of the latest failing parts have images unlike calibration."""
        failed = [row for watched, row in self._block if row is not None and not watched]
        if not failed:
            return False
        limits = {
            name: (self._known[k, 0], self._known[k, -1])
            for k, name in enumerate(self.statistics_)
            if name in IMAGE_STATISTICS
        }
        outside = [
            any(not low <= row[name] <= high for name, (low, high) in limits.items())
            for row in failed[-_RECENT:]
        ]
        return sum(outside) > len(outside) / 2

    def _summary(self) -> dict[str, Any]:
        rows = [row for _, row in self._block if row is not None]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {
            "first_part": self.n_parts_ - len(self._block),
            "last_part": self.n_parts_ - 1,
            "time": utc_now(),
            "n_watched": sum(watched for watched, _ in self._block),
            "n_errors": len(self._block) - len(rows),
            **{
                name: np.quantile([row[name] for row in rows if name in row], _QUANTILES).tolist()
                for name in names
            },
        }


def _statistics_of_all(images: Any, n: int) -> dict[str, np.ndarray]:
    """Statistics of all images, which must be as many as there are calibration scores."""
    if _num_samples(images) != n:
        raise ValueError(
            f"there are {n} calibration scores and {_num_samples(images)} images: give the images "
            "that the calibrator's scores belong to, without known anomalies, in the same order."
        )
    if n and all(isinstance(one, Mapping) for one in images):
        found = [
            {name: _number_of(one, name, i, "image") for name in IMAGE_STATISTICS}
            for i, one in enumerate(images)
        ]
    else:
        blocks = check_images(images).iter_blocks(8)
        found = [image_statistics(one) for block in blocks for one in block]
    return {name: np.array([one[name] for one in found]) for name in IMAGE_STATISTICS}


def _number_of(record: Mapping[str, Any], name: str, i: int, what: str = "part") -> float:
    """Look up one number of a record."""
    value = record.get(name)
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f'{what} {i} has {name}={value!r}, and "{name}" must be a finite number.')
    return float(value)


def _bet(p: float, q: float) -> np.ndarray:
    """Return what each bet multiplies its stake by; 1 in the mean over uniform p-values."""
    z = ndtri(q) if q < p else -ndtri(p)  # by the smaller one, which is known more exactly
    shifts = np.array(_SHIFTS)
    higher, lower = (np.exp(sign * shifts * z - shifts**2 / 2) for sign in (1.0, -1.0))
    return np.concatenate([higher, lower, (higher + lower) / 2])


def _in_words(alarm: Mapping[str, Any], max_fail_rate: float | None) -> str:
    since = f"since about part {alarm['since']}"
    if alarm["statistic"] == "failed":
        return (
            f"more parts fail than {max_fail_rate:.4g} of them {since}: {alarm['recent']:.0%} of "
            "the latest ones"
        )
    low, middle, high = alarm["calibration"]
    what = {"wider": "varies more than"}.get(alarm["direction"], f"is {alarm['direction']} than")
    change = f"{alarm['statistic']} of good parts {what} in calibration {since}"
    if alarm["recent"] is None:  # only p-values are known
        return change
    return (
        f"{change}: {alarm['recent']:.4g} in the mean, where calibration has {middle:.4g} "
        f"({low:.4g} to {high:.4g})"
    )
