"""The contract of feature steps and other transformers of images, as checks."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageSequence
from pyimgano.testing._image_checks import (
    _assert_raises,
    _new_images,
    _write,
    check_parameters_are_not_changed_by_fit,
)
from pyimgano.testing._images import make_check_images

__all__ = ["yield_image_row_checks", "yield_image_transformer_checks"]


def yield_image_transformer_checks() -> Iterator[Callable[[Any], None]]:
    """Yield the checks of steps that turn images into images or patch features.

    scikit-learn's battery has next to nothing to say of them: it feeds tables only.
    """
    yield check_transformer_fit_returns_self
    yield check_transformer_treats_images_one_by_one
    yield check_transformer_takes_ragged_and_read_only_input
    yield check_transformer_does_not_alias_or_change_its_input
    yield check_transformer_paths_equal_arrays
    yield check_transformer_clone_and_pickle
    yield check_transformer_refit_is_reproducible
    yield check_transformer_refuses_wrong_arrays
    yield check_transformer_parameters_count_as_they_were_in_fit
    yield check_parameters_are_not_changed_by_fit


def yield_image_row_checks() -> Iterator[Callable[[Any], None]]:
    """Yield the checks of steps that turn each image into one row of numbers."""
    yield from yield_image_transformer_checks()
    yield check_rows_are_finite_numbers
    yield check_rows_have_names
    yield check_rows_as_a_data_frame
    yield check_rows_of_a_missing_file_are_an_error


def _parts(output: Any) -> list[np.ndarray]:
    """Outputs of a transformer for each image, as comparable arrays."""
    if isinstance(output, PatchGrids):
        return output.as_image_rows()
    return [np.asarray(output[i]) for i in range(len(output))]


def _assert_same(actual: Any, expected: Any) -> None:
    actual, expected = _parts(actual), _parts(expected)
    assert len(actual) == len(expected), f"{len(actual)} outputs for {len(expected)} images"
    for one, other in zip(actual, expected):
        np.testing.assert_array_equal(one, other)


def check_transformer_fit_returns_self(transformer: Any) -> None:
    X = make_check_images(6)
    assert transformer.fit(X) is transformer
    assert len(transformer.transform(X)) == 6, "a transformer must not change the number of images"
    _assert_same(clone(transformer).fit_transform(X), transformer.transform(X))


def check_transformer_treats_images_one_by_one(transformer: Any) -> None:
    transformer.fit(make_check_images(6))
    X = _new_images()
    together = _parts(transformer.transform(X))
    for i in range(len(X)):
        np.testing.assert_array_equal(_parts(transformer.transform(X[i : i + 1]))[0], together[i])


def check_transformer_takes_ragged_and_read_only_input(transformer: Any) -> None:
    transformer.fit(make_check_images(6))
    X = [*make_check_images(1, random_state=1), *make_check_images(1, size=(80, 60))]
    expected = transformer.transform(X)
    for image in X:
        image.setflags(write=False)
    _assert_same(transformer.transform(X), expected)


def check_transformer_does_not_alias_or_change_its_input(transformer: Any) -> None:
    X = make_check_images(6)
    before = X.copy()
    output = transformer.fit(X).transform(X)
    np.testing.assert_array_equal(X, before)
    assert not any(np.shares_memory(part, X) for part in _parts(output)), "the output is a view"


def check_transformer_paths_equal_arrays(transformer: Any) -> None:
    X = make_check_images(6)
    transformer.fit(X)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(X, folder)
        _assert_same(transformer.transform(paths), transformer.transform(X))
        _assert_same(transformer.transform(ImageSequence(paths)), transformer.transform(X))


def check_transformer_clone_and_pickle(transformer: Any) -> None:
    X = make_check_images(6)
    transformer.fit(X)
    assert str(clone(transformer).get_params()) == str(transformer.get_params())
    _assert_same(pickle.loads(pickle.dumps(transformer)).transform(X), transformer.transform(X))


def check_transformer_refit_is_reproducible(transformer: Any) -> None:
    X = make_check_images(6)
    expected = clone(transformer).fit(X).transform(X)
    transformer.fit(make_check_images(4, random_state=5)).fit(X)
    _assert_same(transformer.transform(X), expected)


def check_transformer_refuses_wrong_arrays(transformer: Any) -> None:
    X = make_check_images(4)
    transformer.fit(X)
    refuse: Callable[..., None] = partial(_assert_raises, (ImageFormatError, ValueError))
    refuse(lambda: transformer.transform(X / 255.0), "float64")
    refuse(lambda: transformer.transform(X[0]), "[")
    refuse(lambda: transformer.transform(np.zeros((4, 3))))
    refuse(lambda: transformer.transform([]))


def check_transformer_parameters_count_as_they_were_in_fit(transformer: Any) -> None:
    import warnings

    X = _new_images()
    expected = transformer.fit(make_check_images(6)).transform(X)
    steps = [step for _, step in getattr(transformer, "steps", [("", transformer)])]
    for step in steps:
        for name, value in step.get_params(deep=False).items():
            if name in getattr(step, "_runtime_parameters", ()):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                setattr(step, name, object())  # no use of it can go unnoticed: it does not work
                try:
                    _assert_same(transformer.transform(X), expected)
                except Exception as error:
                    raise AssertionError(
                        f"{name}, changed after fit, changes what transform returns"
                    ) from error
            setattr(step, name, value)


def check_rows_are_finite_numbers(transformer: Any) -> None:
    transformer.fit(make_check_images(6))
    plain = np.full((1, 48, 64, 3), 128, dtype=np.uint8)  # no contrast to divide by
    for X in (_new_images(), plain, np.zeros_like(plain)):
        rows = transformer.transform(X)
        assert isinstance(rows, np.ndarray) and rows.ndim == 2, "one row per image"
        assert rows.dtype == np.float64, f"rows are {rows.dtype}"
        assert np.isfinite(rows).all(), "rows hold NaN or infinity"
    assert len(np.unique(transformer.transform(_new_images()), axis=0)) > 1, "all rows are alike"


def check_rows_have_names(transformer: Any) -> None:
    X = make_check_images(6)
    names = transformer.fit(X).get_feature_names_out()
    n_columns = transformer.transform(X).shape[1]
    assert names.shape == (n_columns,), f"{names.shape} names for {n_columns} columns"
    assert all(isinstance(name, str) for name in names), "names must be strings"
    assert len(set(names)) == n_columns, "two columns have the same name"


def check_rows_as_a_data_frame(transformer: Any) -> None:
    from unittest import SkipTest

    try:
        import pandas  # noqa: F401
    except ImportError:
        raise SkipTest("pandas is not installed") from None
    X = make_check_images(6)
    rows = transformer.fit(X).transform(X)
    frame = clone(transformer).set_output(transform="pandas").fit(X).transform(X)
    np.testing.assert_array_equal(frame.to_numpy(), rows)
    assert list(frame.columns) == list(transformer.get_feature_names_out())


def check_rows_of_a_missing_file_are_an_error(transformer: Any) -> None:
    transformer.fit(make_check_images(6))
    _assert_raises(
        ImageReadError, lambda: transformer.transform(["nowhere/a.png"]), "nowhere/a.png"
    )
