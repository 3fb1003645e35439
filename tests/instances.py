"""One line per estimator: how the contract tests build it."""

from __future__ import annotations

from pyod.models.knn import KNN
from sklearn.base import BaseEstimator, clone

from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.defects import DefectExtractor
from pyimgano.detectors import (
    AnomalyDINODetector,
    DinomalyDetector,
    DRAEMDetector,
    MutualScoringDetector,
    NCCTemplateDetector,
    PaDiMDetector,
    PatchCoreDetector,
    PixelGaussianDetector,
    PixelMADDetector,
    PyODDetector,
    ReverseDistillationDetector,
    SoftPatchDetector,
    SPADEDetector,
    SSIMTemplateDetector,
    STFPMDetector,
    SuperSimpleNetDetector,
)
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.features import (
    BackbonePatchFeatures,
    ColorHistogram,
    ColorMoments,
    EdgeFeatures,
    FFTBandFeatures,
    FilterBankFeatures,
    GaborFeatures,
    GLCMFeatures,
    HOGFeatures,
    LBPFeatures,
    PatchPooling,
    PatchStatistics,
    ViTPatchFeatures,
)
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.interop import as_pyod
from pyimgano.preprocessing import (
    CLAHE,
    BackgroundFlattening,
    ContrastStretch,
    GammaCorrection,
    HomomorphicFilter,
    ImageAlignment,
    RegionCrop,
    UnsharpMask,
    WhiteBalance,
)
from pyimgano.robustness import Corruption
from pyimgano.synthesis import DefectSynthesizer, ImageAugmentation
from pyimgano.tiling import TilingTransformer

# For scikit-learn's battery, which feeds tables.
TABLE_INSTANCES: dict[str, list[BaseEstimator]] = {
    "AnomalyDINODetector": [AnomalyDINODetector(), AnomalyDINODetector(coreset_ratio=0.1)],
    "MutualScoringDetector": [
        MutualScoringDetector(max_references=8),
        MutualScoringDetector(neighborhoods=[1], projection_dim=None, max_references=6),
    ],
    "NCCTemplateDetector": [NCCTemplateDetector()],
    "PaDiMDetector": [PaDiMDetector()],
    "PatchCoreDetector": [PatchCoreDetector(), PatchCoreDetector(coreset_ratio=1.0)],
    "PixelGaussianDetector": [PixelGaussianDetector()],
    "PixelThresholdCalibrator": [PixelThresholdCalibrator(PaDiMDetector(), quantile=0.5)],
    "PixelMADDetector": [PixelMADDetector()],
    "SPADEDetector": [SPADEDetector(), SPADEDetector(n_neighbors=5, n_pixel_neighbors=2)],
    "SSIMTemplateDetector": [SSIMTemplateDetector()],
    "SoftPatchDetector": [
        SoftPatchDetector(),
        SoftPatchDetector(discriminator="gaussian", coreset_ratio=1.0),
    ],
    "PyODDetector": [PyODDetector(KNN())],
    "PyODView": [as_pyod(PaDiMDetector())],
    "ScoreEnsemble": [
        ScoreEnsemble([("gauss", PaDiMDetector()), ("pixels", PixelGaussianDetector())]),
    ],
    "ThresholdCalibrator": [ThresholdCalibrator(PaDiMDetector()), ThresholdCalibrator()],
}

# Detectors that take images only: scikit-learn's battery has one check for them.
IMAGE_ONLY_INSTANCES: dict[str, list[BaseEstimator]] = {
    "DinomalyDetector": [DinomalyDetector()],
    "ReverseDistillationDetector": [ReverseDistillationDetector()],
    "DRAEMDetector": [DRAEMDetector()],
    "STFPMDetector": [STFPMDetector()],
    "SuperSimpleNetDetector": [SuperSimpleNetDetector()],
}

# Detectors that learn too little in the few steps of their instances for the checks that a defect
# is found: the same with more of them.
TRAINED_LONGER: dict[str, BaseEstimator] = {
    "ReverseDistillationDetector": ReverseDistillationDetector(
        BackbonePatchFeatures(
            "shufflenet_v2_x0_5", ("conv1", "maxpool", "stage2"), weights=None, resize=64
        ),
        max_steps=30,
        batch_size=4,
        learning_rate=0.01,
        n_blocks=1,
        smoothing_sigma=2,
    ),
    "STFPMDetector": STFPMDetector(
        BackbonePatchFeatures(
            "shufflenet_v2_x0_5", ("conv1", "maxpool", "stage2"), weights=None, resize=64
        ),
        max_steps=60,
        batch_size=4,
    ),
    "DRAEMDetector": DRAEMDetector(
        32, width=8, max_steps=150, batch_size=8, learning_rate=5e-3, max_rotation=0, brightness=0
    ),
}

# Steps that take images only: scikit-learn's battery has one check for them, ours the rest.
TRANSFORMER_INSTANCES: dict[str, list[BaseEstimator]] = {
    "FilterBankFeatures": [FilterBankFeatures(resize=64)],
    "ImageFormatNormalizer": [ImageFormatNormalizer(), ImageFormatNormalizer(resize=(40, 56))],
    "Corruption": [Corruption("rotation", 5), Corruption("gaussian_noise", 2, random_state=3)],
    "ImageAugmentation": [ImageAugmentation(), ImageAugmentation(0, 0, noise=0, random_state=3)],
    "TilingTransformer": [TilingTransformer(tile=32, stride=24)],
    "BackgroundFlattening": [
        BackgroundFlattening(sigma=20),
        BackgroundFlattening(method="subtract"),
    ],
    "CLAHE": [CLAHE(tiles=(2, 3))],
    "ContrastStretch": [ContrastStretch(), ContrastStretch(2, 95, limits="training")],
    "GammaCorrection": [GammaCorrection()],
    "HomomorphicFilter": [HomomorphicFilter(sigma=20)],
    "RegionCrop": [RegionCrop(top=3, left=5, height=30)],
    "UnsharpMask": [UnsharpMask(threshold=2)],
    "WhiteBalance": [WhiteBalance(), WhiteBalance("white_patch", percentile=95)],
    "BackbonePatchFeatures": [
        BackbonePatchFeatures(
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

# Steps that make one row of numbers of each image.
ROW_INSTANCES: dict[str, list[BaseEstimator]] = {
    "ColorHistogram": [ColorHistogram(), ColorHistogram(4, color_space="hsv", joint=True)],
    "ColorMoments": [ColorMoments(), ColorMoments("hsv", resize=32)],
    "EdgeFeatures": [EdgeFeatures(resize=64)],
    "FFTBandFeatures": [
        FFTBandFeatures(resize=64),
        FFTBandFeatures(4, n_orientations=4, spacing="linear", resize=None),
    ],
    "GLCMFeatures": [GLCMFeatures(resize=64), GLCMFeatures(2, pool_angles=False, resize=None)],
    "GaborFeatures": [GaborFeatures((0.2, 0.4), resize=64)],
    "HOGFeatures": [HOGFeatures(64), HOGFeatures((48, 32), pixels_per_cell=8, cells_per_block=1)],
    "LBPFeatures": [LBPFeatures(resize=64), LBPFeatures(1, method="nri_uniform", resize=None)],
    "PatchStatistics": [PatchStatistics(), PatchStatistics((2, 3), color_space="lab")],
}

# Steps that make one row of the patch grids of each image; tested behind a step that makes grids.
POOLING_INSTANCES: dict[str, list[BaseEstimator]] = {
    "PatchPooling": [PatchPooling(), PatchPooling("max")],
}

# Steps that turn anomaly maps into defects; tests/defects has what they must do.
MAP_INSTANCES: dict[str, list[BaseEstimator]] = {
    "DefectExtractor": [
        DefectExtractor(),
        DefectExtractor(roi=(0, 0, 1, 0.75), hysteresis=(0.5, 1), min_area=2),
    ],
}

# Steps for images of one part in nearly one place, which the check images are not: tested behind a
# step that prints a pattern on them.
ALIGNMENT_INSTANCES: dict[str, list[BaseEstimator]] = {
    "ImageAlignment": [
        ImageAlignment(),
        ImageAlignment("phase_correlation", "translation", min_correlation=-1),
    ],
}

# They paint on images and are no steps of a pipeline; tests/synthesis has what they must do.
SYNTHESIZER_INSTANCES: dict[str, list[BaseEstimator]] = {
    "DefectSynthesizer": [DefectSynthesizer(), DefectSynthesizer(["dent"], 0.5, mask=None)],
}

# For the battery of pyimgano.testing, which feeds images.
IMAGE_INSTANCES: dict[str, list[BaseEstimator]] = {
    "AnomalyDINODetector": [
        AnomalyDINODetector(FilterBankFeatures(resize=64)),
        AnomalyDINODetector(
            FilterBankFeatures(resize=64), coreset_ratio=0.1, mask="pca", n_rotations=2
        ),
    ],
    "DinomalyDetector": [
        DinomalyDetector(
            ViTPatchFeatures(
                "timm:test_vit", weights=None, resize=96, keep_aspect=False, layers=(0, 1)
            ),
            n_blocks=2,
            max_steps=6,
            batch_size=4,
        )
    ],
    "MutualScoringDetector": [
        MutualScoringDetector(FilterBankFeatures(resize=48)),
        MutualScoringDetector(
            FilterBankFeatures(resize=32),
            neighborhoods=(1,),
            max_references=8,
            coreset_ratio=1.0,
            projection_dim=32,
        ),
    ],
    "PaDiMDetector": [PaDiMDetector(FilterBankFeatures(resize=32))],
    "PatchCoreDetector": [
        PatchCoreDetector(FilterBankFeatures(resize=32)),
        PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.01, n_neighbors=1),
    ],
    # The stripes of the check images lie in no fixed phase, so templates need their tolerance.
    "NCCTemplateDetector": [
        NCCTemplateDetector(resize=16, window=5, max_shift=2, smoothing_sigma=1)
    ],
    "PixelGaussianDetector": [PixelGaussianDetector(resize=64)],
    "PixelMADDetector": [PixelMADDetector(resize=64, max_shift=1, smoothing_sigma=2)],
    "PixelThresholdCalibrator": [
        PixelThresholdCalibrator(
            ThresholdCalibrator(PatchCoreDetector(FilterBankFeatures(resize=32)), quantile=0.9),
            DefectExtractor(min_area=4, map_smoothing=("median", 3)),
            quantile=0.8,
        )
    ],
    "SSIMTemplateDetector": [
        SSIMTemplateDetector(resize=24, window=5, max_shift=2, smoothing_sigma=1)
    ],
    "SPADEDetector": [SPADEDetector(FilterBankFeatures(resize=32), n_neighbors=5)],
    "ReverseDistillationDetector": [
        clone(TRAINED_LONGER["ReverseDistillationDetector"]).set_params(max_steps=4)
    ],
    "DRAEMDetector": [DRAEMDetector(32, width=2, max_steps=6, batch_size=2, learning_rate=0.03)],
    "STFPMDetector": [clone(TRAINED_LONGER["STFPMDetector"]).set_params(max_steps=4)],
    "SoftPatchDetector": [SoftPatchDetector(FilterBankFeatures(resize=32))],
    "SuperSimpleNetDetector": [
        SuperSimpleNetDetector(
            FilterBankFeatures(resize=48),
            upsample=1,
            hidden_width=64,
            noise_std=1.0,
            n_positions=32,
            max_steps=20,
            batch_size=4,
            learning_rate=3e-3,
        )
    ],
    "ScoreEnsemble": [
        ScoreEnsemble(
            [
                ("bank", PatchCoreDetector(FilterBankFeatures(resize=32))),
                ("gauss", PaDiMDetector(FilterBankFeatures(resize=32))),
            ]
        )
    ],
    "ThresholdCalibrator": [
        ThresholdCalibrator(PatchCoreDetector(FilterBankFeatures(resize=32)), quantile=0.9)
    ],
}

# Detectors of feature rows alone, which have no part in that battery.
ROW_DETECTORS = {"PyODDetector"}
