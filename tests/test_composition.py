"""Estimators put together: what scikit-learn's tools do with whole pipelines of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyimgano import PatchCoreDetector, ThresholdCalibrator, TilingTransformer
from pyimgano.features import FilterBankFeatures, HOGFeatures, PatchPooling
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.utils.estimator_checks import make_check_images

IMAGES = make_check_images(8)


# ---- tables -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("steps", "first_column"),
    [
        ([HOGFeatures(32)], "block0_0_cell0_0_0deg"),
        ([FilterBankFeatures(resize=32, n_components=4), PatchPooling("mean")], "mean_0"),
        (
            [TilingTransformer(tile=40), PatchCoreDetector(FilterBankFeatures(resize=32))],
            "patchcoredetector0",
        ),
    ],
    ids=["descriptor", "patch grids", "tiles"],
)
def test_data_frames_come_out_of_whole_pipelines(steps, first_column):
    pd = pytest.importorskip("pandas")
    pipe = make_pipeline(ImageFormatNormalizer(), *steps, StandardScaler())
    expected = pipe.fit_transform(IMAGES)
    frame = pipe.set_output(transform="pandas").fit_transform(IMAGES)
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(frame.to_numpy(), expected)
    assert frame.columns[0] == first_column
    assert list(frame.columns) == list(pipe.get_feature_names_out())


def test_images_and_grids_stay_what_they_are_under_set_output():
    normalizer = ImageFormatNormalizer().set_output(transform="pandas")
    assert normalizer.transform(IMAGES).shape == IMAGES.shape
    grids = FilterBankFeatures(resize=32, n_components=4).set_output(transform="pandas")
    assert grids.fit_transform(IMAGES).n_features == 4
    assert list(normalizer.get_feature_names_out()) == []
