"""One line per estimator: how the contract tests build it."""

from __future__ import annotations

from pyod.models.knn import KNN
from sklearn.base import BaseEstimator

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    PyODDetector,
    SoftPatchDetector,
    SPADEDetector,
    as_pyod,
)
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.features import FilterBankFeatures, TorchPatchFeatures, ViTPatchFeatures
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.tiling import TilingTransformer

# For scikit-learn's battery, which feeds tables.
TABLE_INSTANCES: dict[str, list[BaseEstimator]] = {
    "AnomalyDINODetector": [AnomalyDINODetector(), AnomalyDINODetector(coreset_ratio=0.1)],
    "PaDiMDetector": [PaDiMDetector()],
    "PatchCoreDetector": [PatchCoreDetector(), PatchCoreDetector(coreset_ratio=1.0)],
    "SPADEDetector": [SPADEDetector(), SPADEDetector(n_neighbors=5, n_pixel_neighbors=2)],
    "SoftPatchDetector": [
        SoftPatchDetector(),
        SoftPatchDetector(discriminator="gaussian", coreset_ratio=1.0),
    ],
    "PyODDetector": [PyODDetector(KNN())],
    "PyODView": [as_pyod(PatchCoreDetector())],
    "ScoreEnsemble": [
        ScoreEnsemble([("bank", PatchCoreDetector()), ("gauss", PaDiMDetector())]),
    ],
    "ThresholdCalibrator": [ThresholdCalibrator(PatchCoreDetector()), ThresholdCalibrator()],
}

# Steps that take images only: scikit-learn's battery has one check for them, ours the rest.
TRANSFORMER_INSTANCES: dict[str, list[BaseEstimator]] = {
    "FilterBankFeatures": [FilterBankFeatures(resize=64)],
    "ImageFormatNormalizer": [ImageFormatNormalizer(), ImageFormatNormalizer(resize=(40, 56))],
    "TilingTransformer": [TilingTransformer(tile=32, stride=24)],
    "TorchPatchFeatures": [
        TorchPatchFeatures(
            "resnet18", layers=("layer1", "layer2"), weights=None, resize=64, crop=48
        )
    ],
    "ViTPatchFeatures": [
        ViTPatchFeatures("timm:test_vit", weights=None, resize=48),
        ViTPatchFeatures(
            "timm:test_vit", weights=None, resize=32, keep_aspect=False, layers=(1, 4)
        ),
    ],
}

# For the battery of pyimgano.utils.estimator_checks, which feeds images.
IMAGE_INSTANCES: dict[str, list[BaseEstimator]] = {
    "AnomalyDINODetector": [
        AnomalyDINODetector(FilterBankFeatures(resize=64)),
        AnomalyDINODetector(
            FilterBankFeatures(resize=64), coreset_ratio=0.1, mask="pca", n_rotations=2
        ),
    ],
    "PaDiMDetector": [PaDiMDetector(FilterBankFeatures(resize=64))],
    "PatchCoreDetector": [
        PatchCoreDetector(FilterBankFeatures(resize=64)),
        PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.01, n_neighbors=1),
    ],
    "SPADEDetector": [SPADEDetector(FilterBankFeatures(resize=64), n_neighbors=5)],
    "SoftPatchDetector": [SoftPatchDetector(FilterBankFeatures(resize=64))],
    "ScoreEnsemble": [
        ScoreEnsemble(
            [
                ("bank", PatchCoreDetector(FilterBankFeatures(resize=64))),
                ("gauss", PaDiMDetector(FilterBankFeatures(resize=64))),
            ]
        )
    ],
    "ThresholdCalibrator": [
        ThresholdCalibrator(PatchCoreDetector(FilterBankFeatures(resize=64)), quantile=0.9)
    ],
}

# Detectors of feature rows alone, which have no part in that battery.
ROW_DETECTORS = {"PyODDetector"}
