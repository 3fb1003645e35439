"""The contract of image estimators as checks that anyone can run on their own detector.

scikit-learn's ``check_estimator`` feeds tables. These checks state the same contract, and
what is particular to images, on uint8 images. They raise ``AssertionError`` with what was
found. A detector under test must be able to learn from a dozen small images.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.base import clone, is_outlier_detector
from sklearn.utils.validation import has_fit_parameter

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.inference import anomaly_map, infer, threshold
from pyimgano.inputs import ImageSequence
from pyimgano.interop import as_pyod
from pyimgano.testing._images import make_check_images, make_check_parts, make_gross_anomalies

__all__ = [
    "check_image_detector",
    "yield_image_checks",
]


def yield_image_checks(detector: Any) -> Iterator[Callable[[Any], None]]:
    """Yield the checks that apply to ``detector``; each takes the unfitted detector.

    Parameters
    ----------
    detector : estimator instance
        Checks of maps are left out where it has no ``anomaly_map``, those of a region of
        interest where its ``fit`` takes no ``roi_mask``.
    """
    yield check_fit_returns_self_and_learns
    yield check_signs_agree
    yield check_scores_are_float64
    yield check_batch_equals_one_by_one
    yield check_order_does_not_matter
    yield check_ragged_sizes
    yield check_read_only_input
    yield check_input_is_not_changed
    yield check_paths_equal_arrays
    yield check_list_equals_array
    yield check_sequence_slices_stay_lazy
    yield check_finds_a_defect
    yield check_gross_anomalies_are_flagged
    yield check_threads_score_the_same
    yield check_training_images_are_scored_out_of_sample
    yield check_anomalies_are_left_out_of_training
    yield check_other_labels_are_ignored_with_a_warning
    yield check_clone_is_unfitted_and_equal
    yield check_pickle_gives_the_same_scores
    yield check_a_score_at_the_threshold_is_normal
    yield check_parameters_count_as_they_were_in_fit
    yield check_a_failed_fit_changes_nothing
    yield check_refit_is_reproducible
    yield check_global_generators_are_untouched
    yield check_parameters_are_not_changed_by_fit
    yield check_wrong_arrays_are_refused
    yield check_missing_file_is_an_error
    yield check_kind_of_input_is_remembered
    yield check_unfitted_is_an_error
    yield check_one_image_is_too_few
    if hasattr(detector, "anomaly_map"):
        yield check_maps_have_the_shape_of_the_images
        yield check_maps_are_batch_independent
        yield check_map_peaks_at_the_defect
    if has_fit_parameter(detector, "roi_mask") and getattr(detector, "_takes_roi_mask", True):
        yield check_only_the_region_of_interest_counts
        yield check_wrong_regions_of_interest_are_refused


def check_image_detector(detector: Any) -> list[str]:
    """Run every check on clones of ``detector``.

    Parameters
    ----------
    detector : estimator instance
        An outlier detector that takes images. All that ``fit`` learns must lie in its attributes
        (``vars(detector)``): most checks get what one clone has learned put into another.

    Returns
    -------
    list of str
        Names of the checks that ran; assert on their number, for a battery that skips
        itself looks green.

    Raises
    ------
    AssertionError
        If a check fails.

    Examples
    --------
    >>> from pyimgano.detectors import PixelGaussianDetector
    >>> from pyimgano.testing import check_image_detector
    >>> len(check_image_detector(PixelGaussianDetector(resize=32)))
    35
    """
    ran = []
    with fitted_once({}):
        for check in yield_image_checks(detector):
            check(clone(detector))
            ran.append(check.__name__)
    return ran


# What a detector has become by learning from the check images, for the checks that come after.
_LEARNED: ContextVar[dict[str, Any] | None] = ContextVar("learned", default=None)


@contextmanager
def fitted_once(learned: dict[str, Any]) -> Iterator[None]:
    """Let checks of one detector share what it learns from the check images.

    Checks of ``fit`` itself still fit their own; those of a fitted detector take over the
    attributes that the first of them has left here.

    Parameters
    ----------
    learned : dict
        Empty at first, and the same for all checks of clones of one detector.
    """
    token = _LEARNED.set(learned)
    try:
        yield
    finally:
        _LEARNED.reset(token)


def _fitted(detector: Any) -> Any:
    learned = _LEARNED.get()
    if learned is None:
        return detector.fit(make_check_images(12))
    if not learned:
        learned.update(vars(clone(detector).fit(make_check_images(12))))
    # The parameters stay its own, which a check may have set.
    parameters = detector.get_params(deep=False)
    vars(detector).update({k: value for k, value in learned.items() if k not in parameters})
    return detector


def _new_images() -> np.ndarray:
    good = make_check_images(3, random_state=1)
    return np.concatenate([good, make_check_images(2, defect=True, random_state=2)])


def _assert_raises(kind: Any, call: Callable[[], Any], *words: str) -> None:
    try:
        call()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"the message lacks {missing}: {error}"
    else:
        raise AssertionError(f"expected {kind}, nothing was raised")


def check_fit_returns_self_and_learns(detector: Any) -> None:
    X = make_check_images(12)
    assert is_outlier_detector(detector), "the estimator type is not outlier_detector"
    assert detector.fit(X) is detector, "fit must return self"
    assert np.isfinite(detector.offset_), "offset_ must be finite"


def check_signs_agree(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    scores, decision = detector.score_samples(X), detector.decision_function(X)
    np.testing.assert_array_equal(decision, scores - detector.offset_)
    np.testing.assert_array_equal(detector.predict(X), np.where(decision < 0, -1, 1))
    np.testing.assert_array_equal(
        detector.predict(X) == -1, -scores > threshold(detector), "pred = score > threshold"
    )
    if hasattr(detector, "transform"):
        np.testing.assert_array_equal(detector.transform(X), -scores[:, None])


def check_scores_are_float64(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    for method in ("score_samples", "decision_function"):
        out = getattr(detector, method)(X)
        assert out.dtype == np.float64, f"{method} gave {out.dtype}"
        assert out.shape == (len(X),), f"{method} gave shape {out.shape}"
    assert detector.predict(X).dtype.kind == "i", "predict must give integers"


def check_batch_equals_one_by_one(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    single = np.concatenate([detector.score_samples(X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(detector.score_samples(X), single, rtol=1e-6)


def check_order_does_not_matter(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    order = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(
        detector.score_samples(X)[order], detector.score_samples(X[order]), rtol=1e-6
    )


def check_ragged_sizes(detector: Any) -> None:
    _fitted(detector)
    X = [*make_check_images(1, random_state=1), *make_check_images(1, size=(80, 60))]
    scores = detector.score_samples(X)
    assert scores.shape == (2,)
    as_objects = np.empty(2, dtype=object)
    as_objects[:] = X
    np.testing.assert_array_equal(detector.score_samples(as_objects), scores)
    if hasattr(detector, "anomaly_map"):
        shapes = [m.shape for m in detector.anomaly_map(X)]
        assert shapes == [(48, 64), (80, 60)], f"maps have shapes {shapes}"


def check_read_only_input(detector: Any) -> None:
    train, X = make_check_images(12), _new_images()
    expected = _fitted(clone(detector)).score_samples(X)
    train.setflags(write=False)
    X.setflags(write=False)
    np.testing.assert_array_equal(detector.fit(train).score_samples(X), expected)


def check_input_is_not_changed(detector: Any) -> None:
    train, X = make_check_images(12), _new_images()
    before = train.copy(), X.copy()
    detector.fit(train).predict(X)
    if hasattr(detector, "anomaly_map"):
        detector.anomaly_map(X)
    np.testing.assert_array_equal(train, before[0], "fit changed its input")
    np.testing.assert_array_equal(X, before[1], "scoring changed its input")


def _write(images: np.ndarray, folder: str) -> list[str]:
    paths = []
    for i, image in enumerate(images):
        path = Path(folder) / f"{i:03d}.png"
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        paths.append(str(path))
    return paths


def check_paths_equal_arrays(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(X, folder)
        expected = detector.score_samples(X)
        for form in (paths, np.array(paths), [Path(p) for p in paths], ImageSequence(paths)):
            np.testing.assert_array_equal(detector.score_samples(form), expected)


def check_list_equals_array(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    np.testing.assert_array_equal(detector.score_samples(list(X)), detector.score_samples(X))


def check_sequence_slices_stay_lazy(detector: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = ImageSequence(_write(make_check_images(12), folder))
        detector.fit(paths[:8])
        assert detector.score_samples(paths[np.arange(8, 12)]).shape == (4,)


def check_finds_a_defect(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    scores = detector.score_samples(X)
    assert scores[:3].min() > scores[3:].max(), f"good {scores[:3]}, defective {scores[3:]}"


def check_gross_anomalies_are_flagged(detector: Any) -> None:
    detector.fit(make_check_parts(20))
    strangers = make_gross_anomalies()
    labels = detector.predict(np.stack(list(strangers.values())))
    passed = [name for name, label in zip(strangers, labels) if label != -1]
    assert not passed, f"passed as good: {', '.join(passed)}"


def check_threads_score_the_same(detector: Any) -> None:
    X = np.concatenate([_new_images(), make_check_images(6, random_state=5)])
    _fitted(detector)
    one_by_one = [detector.score_samples(X[i : i + 1]) for i in range(len(X))]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(detector.score_samples, [X[i : i + 1] for i in range(len(X))]))
    np.testing.assert_array_equal(at_once, one_by_one)


def check_training_images_are_scored_out_of_sample(detector: Any) -> None:
    X = make_check_images(12)
    judged = clone(detector).fit_predict(X)
    np.testing.assert_array_equal(_fitted(detector).predict(X), judged)
    own, new = detector.score_samples(X), detector.score_samples(make_check_images(40)[12:])
    # The median of 12 seen images lies inside the range of 28 unseen ones.
    assert new.min() <= np.median(own) <= new.max(), (
        f"training images score {np.median(own):.4g}, new good ones {new.min():.4g} to "
        f"{new.max():.4g}: they are not scored as if unseen"
    )


def check_anomalies_are_left_out_of_training(detector: Any) -> None:
    good, bad = make_check_images(12), make_check_images(2, defect=True, random_state=2)
    X, y = np.concatenate([bad[:1], good, bad[1:]]), np.array([-1] + [1] * 12 + [-1])
    if getattr(detector, "_learns_from_known_anomalies", False):
        detector.fit(X, y)
        assert len(detector.training_scores_) == 12  # those of the good ones
        assert detector.score_samples(bad).max() < np.median(detector.score_samples(good))
    else:
        expected = _fitted(clone(detector)).score_samples(_new_images())
        np.testing.assert_array_equal(detector.fit(X, y).score_samples(_new_images()), expected)
    _assert_raises(ValueError, lambda: clone(detector).fit(good, np.full(12, -1)), "-1")


def check_other_labels_are_ignored_with_a_warning(detector: Any) -> None:
    import warnings

    X = make_check_images(12)
    expected = _fitted(clone(detector)).score_samples(_new_images())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.fit(X, np.arange(12) % 2)
    assert any("+1" in str(w.message) for w in caught), "labels 0/1 were ignored silently"
    np.testing.assert_array_equal(detector.score_samples(_new_images()), expected)


def check_clone_is_unfitted_and_equal(detector: Any) -> None:
    from sklearn.exceptions import NotFittedError

    _fitted(detector)
    fresh = clone(detector)
    assert str(fresh.get_params()) == str(detector.get_params())
    _assert_raises(NotFittedError, lambda: fresh.score_samples(_new_images()))


def check_pickle_gives_the_same_scores(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    loaded = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    train = make_check_images(12)
    np.testing.assert_array_equal(loaded.predict(train), detector.predict(train))


def check_a_score_at_the_threshold_is_normal(detector: Any) -> None:
    check_ties(detector, make_check_images(11), _new_images())


def check_ties(detector: Any, train: Any, new: Any) -> None:
    """Check on which side of the threshold every method sees a score that equals it.

    Parameters
    ----------
    detector : estimator
        Fitted here.
    train : ndarray of shape (11, ...)
        Training samples.
    new : ndarray of shape (n_samples, ...)
        Others.
    """
    if "contamination" in detector.get_params():
        # The tenth percentile of 11 scores is one of them.
        judged = detector.set_params(contamination=0.1).fit_predict(train)
        own = detector.training_scores_
        assert (own == threshold(detector)).any(), "no training score is at the threshold"
        np.testing.assert_array_equal(judged, np.where(own > threshold(detector), -1, 1))
        assert (judged == -1).sum() == 1, "fit_predict: at the threshold is normal"
    else:
        detector.fit(train)
    at = detector.score_samples(new)[:1]
    below = float(np.nextafter(at[0], -np.inf))
    for offset, label in ((float(at[0]), 1), (below, 1), (float(np.nextafter(at[0], np.inf)), -1)):
        detector.offset_ = offset
        assert detector.predict(new)[0] == label, "predict: at the threshold is normal"
        assert (detector.decision_function(new)[0] < 0) == (label == -1)
        result = infer(detector, new)[0]
        assert result.label == label, "infer: at the threshold is normal"
        assert result.to_dict()["pred"] == int(label == -1), "record: at the threshold is normal"
        view = as_pyod(detector)
        assert view.predict(new)[0] == int(label == -1), "as_pyod: at the threshold is normal"
        calibrated = ThresholdCalibrator(detector, cv="prefit", quantile=0.5).fit(new)
        calibrated.offset_ = offset
        assert calibrated.predict(new)[0] == label, "calibrator: at the threshold is normal"


def check_parameters_count_as_they_were_in_fit(detector: Any) -> None:
    import warnings

    X = _new_images()
    _fitted(detector)
    with_maps = hasattr(detector, "anomaly_map")
    expected = detector.score_samples(X)
    maps = detector.anomaly_map(X) if with_maps else None
    runtime = getattr(detector, "_runtime_parameters", {"n_jobs", "verbose", "memory"})
    for name, value in detector.get_params(deep=False).items():
        if name in runtime:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # No use of it can go unnoticed: neither works.
            wrong = clone(value) if hasattr(value, "fit") else object()
            try:
                setattr(detector, name, wrong)
            except ValueError:  # one that takes effect at once, and is checked at once
                continue
            np.testing.assert_array_equal(
                detector.score_samples(X), expected, f"{name}, changed after fit, moves scores"
            )
            if with_maps:
                np.testing.assert_array_equal(
                    detector.anomaly_map(X), maps, f"{name}, changed after fit, moves maps"
                )
        setattr(detector, name, value)


def check_a_failed_fit_changes_nothing(detector: Any) -> None:
    X, train = _new_images(), make_check_images(12)
    metadata = {}
    if has_fit_parameter(detector, "roi_mask") and getattr(detector, "_takes_roi_mask", True):
        metadata["roi_mask"] = np.arange(64) < np.full((48, 1), 40)
    detector.fit(train, **metadata)
    state, expected = dict(vars(detector)), detector.score_samples(X)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(make_check_images(12, random_state=5), folder)
        content = Path(paths[-1]).read_bytes()
        Path(paths[-1]).write_bytes(content[: len(content) // 2])
        _assert_raises(ImageReadError, lambda: detector.fit(paths), paths[-1])
    _assert_raises(ValueError, lambda: detector.fit(train[:1]))
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    changed = [name for name in {**state, **vars(detector)} if name not in _caches(detector)]
    for name in changed:
        assert vars(detector).get(name) is state.get(name), f"a failed fit changed {name}"


def _caches(detector: Any) -> set[str]:
    """Attributes that are made again from others while scoring."""
    return set(vars(detector)) - set(detector.__getstate__())


def check_refit_is_reproducible(detector: Any) -> None:
    X, new = make_check_images(12), _new_images()
    first, second = _fitted(clone(detector)), clone(detector)
    second.fit(make_check_images(8, random_state=5)).fit(X)  # leaves nothing of the earlier fit
    np.testing.assert_array_equal(first.score_samples(new), second.score_samples(new))
    assert first.offset_ == second.offset_


def check_global_generators_are_untouched(detector: Any) -> None:
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random_sample(3)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    detector.fit(make_check_images(12)).predict(_new_images())
    np.testing.assert_array_equal(np.random.random_sample(3), expected)  # noqa: NPY002


def check_parameters_are_not_changed_by_fit(detector: Any) -> None:
    before = str(detector.get_params())
    detector.fit(make_check_images(12))
    assert str(detector.get_params()) == before


def check_wrong_arrays_are_refused(detector: Any) -> None:
    _fitted(detector)
    X = _new_images()
    refuse: Callable[..., None] = partial(_assert_raises, (ImageFormatError, ValueError))
    refuse(lambda: detector.predict(X / 255.0), "float64")
    refuse(lambda: detector.predict(X.transpose(0, 3, 1, 2)), "(")
    refuse(lambda: detector.predict(X[..., 0]), "(")
    refuse(lambda: detector.predict(np.concatenate([X, X[..., :1]], axis=3)), "4")
    refuse(lambda: detector.predict(X[0]), "[")
    refuse(lambda: detector.predict(X[:0]))
    refuse(lambda: detector.predict([X[0], X[1].astype(np.float32)]), "1", "float32")


def check_missing_file_is_an_error(detector: Any) -> None:
    _fitted(detector)
    _assert_raises(ImageReadError, lambda: detector.predict(["nowhere/part.png"]), "part.png")


def check_kind_of_input_is_remembered(detector: Any) -> None:
    _fitted(detector)
    _assert_raises(ValueError, lambda: detector.predict(np.zeros((4, 3))), "fitted on images")


def check_unfitted_is_an_error(detector: Any) -> None:
    from sklearn.exceptions import NotFittedError

    for method in ("predict", "score_samples", "decision_function"):
        _assert_raises(NotFittedError, partial(getattr(detector, method), _new_images()))


def check_one_image_is_too_few(detector: Any) -> None:
    _assert_raises(ValueError, lambda: detector.fit(make_check_images(1)), "n_samples=1")


def check_maps_have_the_shape_of_the_images(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    maps = detector.anomaly_map(X)
    assert isinstance(maps, np.ndarray) and maps.shape == X.shape[:3], "one map per pixel"
    assert maps.dtype == np.float32, f"maps are {maps.dtype}"
    assert np.isfinite(maps).all(), "maps hold NaN or infinity"
    np.testing.assert_array_equal(anomaly_map(detector, X), maps)


def check_maps_are_batch_independent(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    maps = detector.anomaly_map(X)
    for i in range(len(X)):
        alone = detector.anomaly_map(X[i : i + 1])[0]
        np.testing.assert_allclose(maps[i], alone, rtol=1e-5, atol=1e-6 * maps.max())


def check_map_peaks_at_the_defect(detector: Any) -> None:
    X = _new_images()
    _fitted(detector)
    good, bad = detector.anomaly_map(X[:3]), detector.anomaly_map(X[3:])
    assert bad.max() > good.max(), "a defect must stand out in the map: higher = worse"
    for image, heat in zip(X[3:], bad):
        inside = (image == 250).all(axis=2)
        assert heat[inside].mean() > heat[~inside].mean(), "the map is not hottest at the defect"


def check_only_the_region_of_interest_counts(detector: Any) -> None:
    train, clean = make_check_images(12), make_check_images(3, random_state=1)
    mask = np.zeros((48, 64), dtype=bool)
    mask[:, :16] = True
    detector.fit(train, roi_mask=mask)
    np.testing.assert_array_equal(detector.roi_mask_, mask)

    def with_defect(images: np.ndarray, left: int) -> np.ndarray:
        images = images.copy()
        images[:, 20:30, left : left + 10] = 250
        return images

    bad, fine = with_defect(clean, 3), with_defect(clean, 52)
    scores = detector.score_samples(clean)
    drop = scores - detector.score_samples(bad)
    assert (drop > 0).all(), "a defect in the region must lower the score"
    # A network sees a little of what is around a patch, and a transformer of all the image.
    change = np.abs(detector.score_samples(fine) - scores)
    assert (change <= 0.05 * drop).all(), f"outside the region a defect changes scores by {change}"
    np.testing.assert_array_equal(detector.predict(fine), detector.predict(clean))
    np.testing.assert_array_equal(
        detector.score_samples(with_defect(train, 52)),
        detector.score_samples(train),
        "what lies outside the region makes a training image another one",
    )
    loaded = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(loaded.score_samples(bad), detector.score_samples(bad))
    if not hasattr(detector, "anomaly_map"):
        return
    maps = detector.anomaly_map(bad)
    np.testing.assert_array_equal(loaded.anomaly_map(bad), maps)
    for heat in maps:
        assert (heat[~mask] == heat.min()).all(), "outside the region a map has its minimum"
        assert np.isfinite(heat).all() and heat.max() > heat.min()
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert 12 <= row < 38 and column < 16, f"the map peaks at {row}, {column}"


def check_wrong_regions_of_interest_are_refused(detector: Any) -> None:
    X = make_check_images(4)
    whole = np.ones((48, 64), dtype=bool)

    def refuse(roi_mask: Any, *words: str) -> None:
        _assert_raises(ValueError, lambda: detector.fit(X, roi_mask=roi_mask), *words)

    refuse(~whole, "False")
    refuse(whole.astype(np.uint8), "uint8")
    refuse(whole[0], "(64,)")
    refuse(np.stack([whole] * 4), "(4, 48, 64)", "one for all")
    refuse(whole.T, "64 x 48", "48 x 64")
