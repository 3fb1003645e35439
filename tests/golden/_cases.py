"""Cases of the golden tests: small made inputs, and a table of estimators.

Everything is reached by public names, all of which are imported here and nowhere else in this
folder. Inputs are made of integers, so that they are the same on every machine.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from pyimgano import anomaly_map, create_model, list_models
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import (
    AnomalyDINODetector,
    NCCTemplateDetector,
    PaDiMDetector,
    PatchCoreDetector,
    PixelGaussianDetector,
    PixelMADDetector,
    PyODDetector,
    SoftPatchDetector,
    SPADEDetector,
    SSIMTemplateDetector,
)
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.features import BackbonePatchFeatures as BackboneFeatures
from pyimgano.features import (
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
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageFormat, ImageFormatNormalizer, ImageSequence
from pyimgano.interop import as_pyod
from pyimgano.model_selection import OneClassKFold, balanced_accuracy
from pyimgano.tiling import TiledImages, TilingTransformer

__all__ = ["CASES", "Case", "inputs", "made", "outcome", "write_weights"]

SIZE = (40, 48)


# ---- inputs ---------------------------------------------------------------------------
def paint(n: int, seed: int, size: tuple[int, int] = SIZE, defects: int = 0) -> np.ndarray:
    """Uint8 RGB images of a striped disc on a ramp; the last ``defects`` of them are flawed."""
    rng = np.random.RandomState(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((n, height, width, 3), np.uint8)
    for i in range(n):
        down, right, light = rng.randint(-1, 2), rng.randint(-1, 2), rng.randint(-4, 5)
        y, x = rows - down, columns - right
        gray = 70 + 60 * x // width + light
        disc = (y - height // 2) ** 2 + (x - width // 2) ** 2 < (height // 3) ** 2
        gray = gray + disc * (40 + 30 * ((x + 2 * y) // 5 % 2))
        top, left = height // 4 + rng.randint(height // 3), width // 4 + rng.randint(width // 3)
        noise = rng.randint(-3, 4, (height, width, 3))
        if i >= n - defects:
            kind = (i - (n - defects)) % 3
            if kind == 0:
                gray[top : top + height // 6, left : left + width // 6] = 240
            elif kind == 1:
                gray[top : top + 2, left : left + width // 2] = 15
            else:
                gray[top : top + height // 4, left : left + width // 4] = 120
        images[i] = np.clip(gray[:, :, None] + np.array([12, 0, -15]) + noise, 0, 255)
    return images


def table(n: int, seed: int, odd: int = 0, columns: int = 5) -> np.ndarray:
    """Rows of about normal, dependent numbers; the last ``odd`` lie elsewhere."""
    rng = np.random.RandomState(seed)
    rows = rng.randint(-128, 129, (n, columns, 4)).sum(axis=2) / 128
    rows[:, 1:] += rows[:, :-1] / 2
    rows[n - odd :, ::2] += 4.5
    return rows


def patches(n: int, seed: int, odd: int = 0, shape: tuple[int, int] = (4, 5)) -> PatchGrids:
    """Grids of feature vectors whose mean depends on their place."""
    height, width = shape
    rows = table(n * height * width, seed, columns=6).reshape(n, height, width, 6)
    rows += np.arange(height)[:, None, None] - np.arange(width)[None, :, None] / 2
    rows[n - odd :, 1:3, 2:4, 3:] += 5
    sizes = [(8 * height, 8 * width)] * n
    work_size = (4 * height, 4 * width)
    return PatchGrids.from_array(rows.astype(np.float32), sizes, work_size=work_size)


def wide_patches(n: int, seed: int, odd: int = 0) -> PatchGrids:
    """Grids of long feature vectors, few of them different, which makes small files."""
    rng = np.random.RandomState(seed)
    kinds = np.zeros((64, 128), np.float32)
    kinds[:, ::16] = np.random.RandomState(0).randint(0, 16, (64, 8)) / 8
    features = kinds[rng.randint(0, 64, (n, 14, 14))]
    features[:, :2, :2, 8] += rng.randint(1, 64, (n, 2, 2)) / 16
    features[n - odd :, 4:7, 4:7, :32] += 1
    return PatchGrids.from_array(features, [(56, 56)] * n, work_size=(56, 56))


def region() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[6:38, 4:42] = True
    mask[6:14, 4:12] = False
    return mask


def _ragged(images: np.ndarray) -> list[np.ndarray]:
    return [image[: 40 - 8 * (i % 2), : 48 - 8 * (i % 3)] for i, image in enumerate(images)]


@cache
def inputs(name: str) -> tuple[Any, Any]:
    """Training samples and test samples."""
    if name == "images":
        return paint(10, 0), paint(5, 1, defects=3)
    if name == "held out":  # for what was fitted on "images"
        return paint(10, 2), paint(5, 1, defects=3)
    if name == "copies":
        train = paint(9, 0)
        return train[[0, 1, 2, 0, 3, 4, 1, 5, 6, 7, 8, 0]], paint(5, 1, defects=3)
    if name == "labelled":
        return paint(12, 3, defects=3), paint(5, 1, defects=3)
    if name == "ragged":
        return _ragged(paint(8, 0)), _ragged(paint(5, 1, defects=3))
    if name == "large":
        return paint(6, 4, (72, 88)), paint(3, 5, (72, 88), defects=2)
    if name == "frames":  # gray, 12 bit
        train, test = paint(10, 6), paint(4, 7, defects=2)
        return tuple(images[..., 1].astype(np.uint16) * 16 for images in (train, test))
    if name == "rows":
        return table(40, 0), table(8, 1, odd=3)
    if name == "many rows":
        return table(120, 2), table(8, 1, odd=3)
    if name == "grids":
        return patches(10, 0), patches(4, 1, odd=2)
    if name == "wide patches":  # enough and wide enough for the search to work by leaves
        return wide_patches(6, 4), wide_patches(3, 5, odd=1)
    if name == "many patches":
        return patches(18, 2, shape=(32, 32)), patches(3, 3, odd=1, shape=(32, 32))
    raise KeyError(name)


LABELS = np.repeat([1, -1], [9, 3])  # of "labelled"

# Tensors of the networks below, under torchvision's names: output and input channels and side of
# each convolution. A batch norm follows each.
_STEM = {"conv1": (64, 3, 7)}
_RESNET18 = {
    **_STEM,
    **{f"layer1.{b}.conv{c}": (64, 64, 3) for b in (0, 1) for c in (1, 2)},
    "layer2.0.conv1": (128, 64, 3),
    "layer2.0.conv2": (128, 128, 3),
    "layer2.0.downsample.0": (128, 64, 1),
    "layer2.1.conv1": (128, 128, 3),
    "layer2.1.conv2": (128, 128, 3),
}
_WIDE = {
    **_STEM,
    "layer1.0.conv1": (128, 64, 1),
    "layer1.0.conv2": (128, 128, 3),
    "layer1.0.conv3": (256, 128, 1),
    "layer1.0.downsample.0": (256, 64, 1),
}
NETWORKS = {"golden-resnet18.pth": _RESNET18, "golden-wide.pth": _WIDE}


def write_weights(folder: Path) -> None:
    """Write the weights that cases name, as ``torch.save`` writes a state dict.

    Cases name the files without a folder, so they are fitted and used in this one.
    """
    for name, convolutions in NETWORKS.items():
        rng = np.random.RandomState(len(convolutions))
        state = {}
        for convolution, (outputs, given, side) in convolutions.items():
            norm = convolution.replace("conv", "bn").replace("downsample.0", "downsample.1")
            spread = 2.0 / (given * side)
            values = rng.randint(-1024, 1025, (outputs, given, side, side)) / 1024
            state[f"{convolution}.weight"] = values * spread
            state[f"{norm}.weight"] = rng.randint(512, 1537, outputs) / 1024
            state[f"{norm}.bias"] = rng.randint(-128, 129, outputs) / 1024
            state[f"{norm}.running_mean"] = rng.randint(-128, 129, outputs) / 1024
            state[f"{norm}.running_var"] = rng.randint(512, 1537, outputs) / 1024
        _write_state({k: v.astype("<f4") for k, v in state.items()}, folder / name)


def _write_state(state: dict[str, np.ndarray], path: Path) -> None:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(*values: int) -> bytes:
        return b"".join(b"J" + struct.pack("<i", value) for value in values)

    content = b"\x80\x02}("
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, values) in enumerate(state.items()):
            strides = (step // values.itemsize for step in values.strides)
            storage = text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu")
            content += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
            content += storage + numbers(values.size) + b"tQ" + numbers(0)
            content += b"(" + numbers(*values.shape) + b"t(" + numbers(*strides) + b"t\x89NtR"
            archive.writestr(f"archive/data/{key}", values.tobytes())
        archive.writestr("archive/data.pkl", content + b"u.")
        archive.writestr("archive/byteorder", b"little")


# ---- cases ----------------------------------------------------------------------------
class Case(NamedTuple):
    """An estimator, or another object that is pickled, and what it is fitted on."""

    make: Callable[[], Any]
    data: str = "images"
    # Arguments of fit beside the training samples.
    fit: Mapping[str, Any] = {}
    # Whether fit hands metadata on by scikit-learn's routing.
    routing: bool = False
    # Whether there is a file of it; not where that would be large.
    file: bool = True
    # Whether there is one by pyimgano.save as well.
    saved: bool = False
    # Modules without which it does not work.
    needs: tuple[str, ...] = ()
    # Whether training samples are recognized by numbers computed from them, which another
    # processor may round in another way.
    by_bits: bool = False
    # Whether OpenCV moves images, which each version does in its own way, and as far as it
    # takes to be near enough.
    moves: bool = False


TORCH = ("torch", "torchvision")
ROI = {"roi_mask": region()}


def bank(**options: Any) -> FilterBankFeatures:
    return FilterBankFeatures(**{"resize": 32, "n_components": 3, **options})


def network(layers: tuple[str, ...] = ("layer1",), **options: Any) -> Any:
    """Steps with a network, whose weights are in a file or, with None, random."""
    plain = {"weights": "golden-resnet18.pth", "resize": 32, "crop": None, "device": "cpu"}
    return BackboneFeatures("resnet18", layers, **{**plain, **options})


def transformer(**options: Any) -> ViTPatchFeatures:
    return ViTPatchFeatures(
        "timm:test_vit", **{"weights": None, "resize": 48, "device": "cpu", **options}
    )


def fitted(estimator: Any) -> Any:
    return estimator.fit(inputs("images")[0])


def tiled(detector: Any, **options: Any) -> Any:
    return make_pipeline(TilingTransformer(**{"tile": 40, "stride": 32, **options}), detector)


def members() -> list[tuple[str, Any]]:
    return [
        ("bank", PatchCoreDetector(coreset_ratio=0.3)),
        ("gauss", PaDiMDetector()),
        ("forest", IsolationForest(n_estimators=5, random_state=0)),
    ]


def image_members() -> list[tuple[str, Any]]:
    return [("bank", PatchCoreDetector(bank())), ("pixels", PixelGaussianDetector(resize=12))]


def _patch_detectors() -> Iterator[tuple[str, Case]]:
    """Each detector of patches on every kind of input."""
    classes = {
        "patchcore": PatchCoreDetector,
        "padim": PaDiMDetector,
        "spade": SPADEDetector,
        "softpatch": SoftPatchDetector,
        "anomalydino": AnomalyDINODetector,
    }
    for name, cls in classes.items():
        yield name, Case(lambda cls=cls: cls(bank()), saved=True)
        yield f"{name}-rows", Case(lambda cls=cls: cls(), "rows")
        yield f"{name}-grids", Case(lambda cls=cls: cls(), "grids")
        yield f"{name}-roi", Case(lambda cls=cls: cls(bank()), fit=ROI)
        smooth = {"smoothing_sigma": 1.5}
        yield f"{name}-copies", Case(lambda c=cls, o=smooth: c(bank(), **o), "copies", file=False)
        share = {"contamination": 0.2}
        yield (
            f"{name}-labels",
            Case(lambda c=cls, o=share: c(bank(), **o), "labelled", {"y": LABELS}, file=False),
        )


def _templates() -> Iterator[tuple[str, Case]]:
    pixels = {"pixel_gaussian": PixelGaussianDetector, "pixel_mad": PixelMADDetector}
    windows = {"ssim_template": SSIMTemplateDetector, "ncc_template": NCCTemplateDetector}
    for name, cls in {**pixels, **windows}.items():
        small = {} if name in pixels else {"window": 5}
        own = {"noise_sigma": 1.0} if name in pixels else {"window": 7}
        options: dict[str, dict[str, Any]] = {
            "": {"resize": 16},
            "-shift": {"resize": (15, 18), "color": "gray", "max_shift": 2, **own},
            "-rgb": {"resize": 12, "color": "rgb", "top_fraction": 0.1, "smoothing_sigma": 0},
            "-phase": {"resize": (20, 24), "color": "gray", "alignment": "phase_correlation"},
            "-ecc": {"resize": (20, 24), "color": "gray", "alignment": "ecc"},
        }
        for kind, chosen in options.items():
            moves = "alignment" in chosen
            yield name + kind, Case(lambda c=cls, o={**small, **chosen}: c(**o), moves=moves)
        plain = {"resize": 16, **small}
        yield f"{name}-roi", Case(lambda c=cls, o=plain: c(**o), fit=ROI, saved=True)
        yield f"{name}-copies", Case(lambda c=cls, o=plain: c(**o), "copies", file=False)
        yield f"{name}-rows", Case(lambda c=cls, o=small: c(**o), "rows")
        yield f"{name}-grids", Case(lambda c=cls, o=small: c(**o), "grids")


# Few samples; models whose defaults ask for more say so here.
_PYOD: dict[str, dict[str, Any]] = {
    "vision_cblof": {"n_clusters": 2, "alpha": 0.5, "beta": 2},
    "vision_iforest": {"n_estimators": 10},
    "vision_inne": {"n_estimators": 20},
    "vision_sampling": {"subset_size": 5},
}


def _registry() -> Iterator[tuple[str, Case]]:
    """All models that need no weights as they come, and the others with other features."""
    for name in list_models(tags="pyod"):
        params = {"features": FFTBandFeatures(3, resize=32), "cv": 3, **_PYOD.get(name, {})}
        yield f"model-{name}", Case(lambda n=name, p=params: create_model(n, **p), by_bits=True)
    small = {"features__resize": 32, "features__n_components": 3}
    # By the name that is the filter bank's whatever is installed.
    for case, name in (("embedded", "embedded"), ("industrial-fast", "industrial-fast-filterbank")):
        yield f"model-{case}", Case(lambda n=name, p=small: create_model(n, **p))
    for name in list_models(family="template"):
        yield f"model-{name}", Case(lambda n=name: create_model(n, resize=12))
    for name in list_models(requires_checkpoint=True):
        if name.startswith("vision"):
            small = {
                "features": "filterbank",
                "features__resize": 32,
                "features__n_components": 3,
            }
            yield f"model-{name}", Case(lambda n=name, p=small: create_model(n, **p), file=False)


def _steps() -> Iterator[tuple[str, Case]]:
    steps: dict[str, list[Callable[[], Any]]] = {
        "color_histogram": [
            ColorHistogram,
            lambda: ColorHistogram(4, color_space="hsv", joint=True),
        ],
        "color_moments": [ColorMoments, lambda: ColorMoments("hsv", resize=32)],
        "edges": [lambda: EdgeFeatures(resize=64)],
        "fft_bands": [
            lambda: FFTBandFeatures(resize=64),
            lambda: FFTBandFeatures(4, n_orientations=4, spacing="linear", resize=None),
        ],
        "glcm": [
            lambda: GLCMFeatures(resize=64),
            lambda: GLCMFeatures(2, pool_angles=False, resize=None),
        ],
        "gabor": [lambda: GaborFeatures((0.2, 0.4), resize=64)],
        "hog": [
            lambda: HOGFeatures(64),
            lambda: HOGFeatures((48, 32), pixels_per_cell=8, cells_per_block=1),
        ],
        "lbp": [
            lambda: LBPFeatures(resize=64),
            lambda: LBPFeatures(1, method="nri_uniform", resize=None),
        ],
        "patch_statistics": [PatchStatistics, lambda: PatchStatistics((2, 3), color_space="lab")],
        "filterbank": [bank, lambda: bank(resize=(48, 56), batch_size=3, random_state=5)],
        "normalizer": [
            ImageFormatNormalizer,
            lambda: ImageFormatNormalizer(ImageFormat.BGR_U8_HWC, resize=(30, 36)),
        ],
        "tiling": [
            lambda: TilingTransformer(32, stride=24),
            lambda: TilingTransformer((30, 20), pad_mode="edge", blend="mean"),
        ],
        "backbone": [
            network,
            lambda: network(("layer1.0", "layer2"), resize=(40, 48), crop=32, pool=1),
            lambda: network(weights=None, random_state=3),
        ],
    }
    for name, makers in steps.items():
        for number, make in enumerate(makers):
            yield f"{name}-{number}", Case(make)
    yield "filterbank-default", Case(FilterBankFeatures, "large", file=False)
    yield "filterbank-ragged", Case(lambda: bank(resize=None), "ragged")
    frames = {"input_format": "gray_u16_hw", "u16_max": 4095}
    yield "normalizer-frames", Case(lambda: ImageFormatNormalizer(**frames), "frames")
    yield "pooling-0", Case(PatchPooling, "grids")
    yield "pooling-1", Case(lambda: PatchPooling("max"), "grids")
    yield "pooling-filterbank", Case(lambda: make_pipeline(bank(), PatchPooling("std")))
    yield "backbone-embedded", Case(lambda: network(embed_weights=True), file=False)
    yield "backbone-ragged", Case(lambda: network(resize=None), "ragged")
    yield "backbone-torch-0", Case(lambda: network(("layer1.0.conv1", "layer2")), needs=TORCH)
    yield (
        "backbone-torch-1",
        Case(
            lambda: BackboneFeatures(
                "vgg11", ("features.3",), None, resize=32, crop=24, pool=1, device="cpu"
            ),
            needs=TORCH,
        ),
    )
    for number, options in enumerate(
        [{}, {"resize": 32, "keep_aspect": False, "layers": (1, 4), "random_state": 2}]
    ):
        yield (
            f"transformer-{number}",
            Case(lambda o=options: transformer(**o), needs=("torch", "timm")),
        )


def _objects() -> Iterator[tuple[str, Case]]:
    """Objects beside estimators that are pickled between processes or kept in caches."""
    yield "object-grids", Case(lambda: inputs("grids")[1])
    yield "object-grids-within", Case(lambda: inputs("grids")[1].within(_half()))
    yield "object-tiles", Case(lambda: TilingTransformer(24).transform(inputs("images")[1][:2]))
    yield "object-paths", Case(lambda: ImageSequence(["a.png", "b.png"], resize=(8, 9)))


def _half() -> np.ndarray:
    return np.tile(np.arange(40) < 20, (32, 1))


_ONE_BY_ONE: dict[str, Case] = {
    # Detectors of patches, with parameters of their own.
    "patchcore-all": Case(lambda: PatchCoreDetector(bank(), coreset_ratio=1.0)),
    "patchcore-one": Case(
        lambda: PatchCoreDetector(bank(), coreset_ratio=0.05, n_neighbors=1, random_state=3)
    ),
    "patchcore-projected": Case(lambda: PatchCoreDetector(bank(n_components=8), projection_dim=3)),
    "patchcore-bounded": Case(lambda: PatchCoreDetector(bank(), max_bank_patches=15)),
    "patchcore-streamed": Case(
        lambda: PatchCoreDetector(max_bank_patches=40, coreset_ratio=0.5), "many patches"
    ),
    "patchcore-wide": Case(lambda: PatchCoreDetector(coreset_ratio=1.0), "wide patches"),
    "patchcore-rows-all": Case(lambda: PatchCoreDetector(coreset_ratio=1.0), "rows", saved=True),
    "patchcore-ragged": Case(lambda: PatchCoreDetector(bank(resize=None)), "ragged"),
    "padim-channels": Case(
        lambda: PaDiMDetector(
            bank(n_components=6), n_channels=3, regularization=0.1, random_state=1
        )
    ),
    "spade-few": Case(
        lambda: SPADEDetector(bank(), n_neighbors=3, n_pixel_neighbors=2, n_image_features=2)
    ),
    "softpatch-nearest": Case(lambda: SoftPatchDetector(bank(), discriminator="nearest")),
    "softpatch-gaussian": Case(
        lambda: SoftPatchDetector(bank(), discriminator="gaussian", coreset_ratio=1.0)
    ),
    "softpatch-lof": Case(
        lambda: SoftPatchDetector(bank(), lof_neighbors=3, drop_ratio=0.3, n_neighbors=2)
    ),
    "softpatch-keeps": Case(lambda: SoftPatchDetector(bank(), drop_ratio=0.0)),
    "softpatch-rows-nearest": Case(lambda: SoftPatchDetector(discriminator="nearest"), "rows"),
    "softpatch-rows-gaussian": Case(lambda: SoftPatchDetector(discriminator="gaussian"), "rows"),
    "anomalydino-pca": Case(
        lambda: AnomalyDINODetector(bank(resize=48), mask="pca", top_fraction=0.2)
    ),
    "anomalydino-turned": Case(
        lambda: AnomalyDINODetector(bank(), coreset_ratio=0.2, n_rotations=3), moves=True
    ),
    "anomalydino-turned-roi": Case(lambda: AnomalyDINODetector(bank(), n_rotations=4), fit=ROI),
    # Detectors of pixels.
    "pixel_mad-whole": Case(lambda: PixelMADDetector(resize=None, color="gray"), "copies"),
    "ssim_template-affine": Case(
        lambda: SSIMTemplateDetector(
            resize=(20, 24), window=5, alignment="ecc", motion="affine", color="lab"
        ),
        moves=True,
    ),
    "pixel_gaussian-euclidean": Case(
        lambda: PixelGaussianDetector(resize=(20, 24), alignment="ecc", motion="euclidean"),
        moves=True,
    ),
    "pixel_gaussian-phase-roi": Case(
        lambda: PixelGaussianDetector(resize=(20, 24), alignment="phase_correlation"),
        fit=ROI,
        moves=True,
    ),
    # PyOD's models, and ours in its terms.
    "pyod-knn": Case(lambda: PyODDetector(KNN(n_neighbors=3)), "rows", saved=True),
    "pyod-one-by-one": Case(lambda: PyODDetector(ECOD(), cv=3, random_state=4), "rows"),
    "pyod-forest": Case(lambda: PyODDetector(IForest(n_estimators=5), contamination=0.1), "rows"),
    "pyod-pipeline": Case(
        lambda: make_pipeline(HOGFeatures(32), StandardScaler(), PyODDetector(KNN(n_neighbors=2))),
        by_bits=True,
    ),
    "pyod-filterbank": Case(
        lambda: create_model("vision_knn", features__resize=32, features__n_components=3),
        by_bits=True,
    ),
    "pyod-view": Case(lambda: as_pyod(PatchCoreDetector(contamination=0.1)), "rows", saved=True),
    "pyod-view-fitted": Case(lambda: as_pyod(fitted(PatchCoreDetector(bank())))),
    # Ensembles.
    **{
        f"ensemble-{combination}-{normalization}": Case(
            lambda c=combination, n=normalization: ScoreEnsemble(
                members(), combination=c, normalization=n
            ),
            "rows",
            saved=combination == "rank_mean",
        )
        for combination, normalization in [
            ("mean", "ecdf"),
            ("mean", "z"),
            ("median", "robust_z"),
            ("max", "z"),
            ("trimmed_mean", "ecdf"),
            ("rank_mean", "ecdf"),
        ]
    },
    "ensemble-weights": Case(
        lambda: ScoreEnsemble(
            [*members(), ("gone", "drop")], weights=[2, 1, 0.5, 1], contamination=0.1
        ),
        "rows",
    ),
    "ensemble-images": Case(lambda: ScoreEnsemble(image_members()), saved=True),
    "ensemble-images-robust": Case(
        lambda: ScoreEnsemble(image_members(), normalization="robust_z", combination="max")
    ),
    "ensemble-frozen": Case(
        lambda: ScoreEnsemble(
            [
                ("frozen", FrozenEstimator(fitted(PatchCoreDetector(bank())))),
                ("padim", make_pipeline(ImageFormatNormalizer(), PaDiMDetector(bank()))),
                ("rows", make_pipeline(ColorMoments(), PyODDetector(KNN(n_neighbors=2)))),
            ]
        ),
        by_bits=True,
    ),
    "ensemble-routing": Case(
        lambda: ScoreEnsemble(
            [
                ("inside", PatchCoreDetector(bank()).set_fit_request(roi_mask=True)),
                ("all", PixelMADDetector(resize=12).set_fit_request(roi_mask=False)),
            ]
        ),
        fit=ROI,
        routing=True,
    ),
    # Thresholds.
    "calibrator": Case(
        lambda: ThresholdCalibrator(PatchCoreDetector(bank()), quantile=0.9), saved=True
    ),
    "calibrator-quantile": Case(
        lambda: ThresholdCalibrator(PatchCoreDetector(), method="quantile", quantile=0.8), "rows"
    ),
    "calibrator-pot": Case(
        lambda: ThresholdCalibrator(PaDiMDetector(), method="pot", quantile=0.99), "many rows"
    ),
    "calibrator-conformal-rows": Case(
        lambda: ThresholdCalibrator(PatchCoreDetector(), quantile=0.95), "many rows"
    ),
    "calibrator-folds": Case(
        lambda: ThresholdCalibrator(PatchCoreDetector(bank()), quantile=0.8, cv=3)
    ),
    "calibrator-splitter": Case(
        lambda: ThresholdCalibrator(
            PaDiMDetector(), quantile=0.9, cv=KFold(4, shuffle=True, random_state=1)
        ),
        "rows",
    ),
    "calibrator-foreign": Case(
        lambda: ThresholdCalibrator(IsolationForest(n_estimators=5, random_state=0), quantile=0.9),
        "rows",
    ),
    "calibrator-prefit": Case(
        lambda: ThresholdCalibrator(fitted(PatchCoreDetector(bank())), quantile=0.8, cv="prefit"),
        "held out",
        by_bits=True,
    ),
    "calibrator-frozen": Case(
        lambda: ThresholdCalibrator(
            FrozenEstimator(fitted(PixelGaussianDetector(resize=12))), quantile=0.9
        ),
        "held out",
        by_bits=True,
    ),
    "calibrator-last": Case(
        lambda: make_pipeline(
            ImageFormatNormalizer(), PatchCoreDetector(bank()), ThresholdCalibrator(quantile=0.9)
        ),
        saved=True,
    ),
    "calibrator-around": Case(
        lambda: ThresholdCalibrator(
            make_pipeline(
                ImageFormatNormalizer("gray_u16_hw", u16_max=4095), PixelMADDetector(resize=12)
            ),
            quantile=0.7,
        ),
        "frames",
    ),
    "calibrator-ensemble": Case(
        lambda: ThresholdCalibrator(ScoreEnsemble(image_members()), quantile=0.9)
    ),
    # Tiles.
    "tiles-patchcore": Case(lambda: tiled(PatchCoreDetector(bank())), "large", saved=True),
    "tiles-padim": Case(
        lambda: tiled(PaDiMDetector(bank()), blend="gaussian", score_reduce="mean"), "large"
    ),
    "tiles-softpatch": Case(
        lambda: tiled(SoftPatchDetector(bank()), blend="max", pad_mode="edge"), "large"
    ),
    "tiles-anomalydino": Case(
        lambda: tiled(AnomalyDINODetector(bank()), score_reduce="topk_mean", topk=2), "large"
    ),
    "tiles-spade": Case(
        lambda: tiled(SPADEDetector(bank(), n_neighbors=4), tile=(36, 44)), "large"
    ),
    "tiles-pixels": Case(
        lambda: tiled(PixelGaussianDetector(resize=12), blend="mean", stride=None), "large"
    ),
    "tiles-calibrated": Case(
        lambda: ThresholdCalibrator(tiled(PatchCoreDetector(bank())), quantile=0.7), "large"
    ),
    # Other nestings.
    "frozen": Case(lambda: FrozenEstimator(fitted(PatchCoreDetector(bank()))), fit={"y": None}),
    "pipeline-roi": Case(
        lambda: make_pipeline(ImageFormatNormalizer(), PatchCoreDetector(bank())),
        fit={"patchcoredetector__roi_mask": region()},
        saved=True,
    ),
    "pipeline-union": Case(
        lambda: make_pipeline(
            make_union(ColorMoments(), LBPFeatures(1, resize=32), FFTBandFeatures(2, resize=32)),
            StandardScaler(),
            PatchCoreDetector(),
        ),
        by_bits=True,
    ),
    "pipeline-pooling": Case(
        lambda: make_pipeline(bank(), PatchPooling(("mean", "max")), PaDiMDetector()), by_bits=True
    ),
    "search": Case(
        lambda: GridSearchCV(
            make_pipeline(ImageFormatNormalizer(), PatchCoreDetector(bank())),
            {"patchcoredetector__coreset_ratio": [0.05, 0.5]},
            scoring=balanced_accuracy,
            cv=OneClassKFold(3),
        ),
        "labelled",
        {"y": LABELS},
        saved=True,
    ),
    "search-inside": Case(
        lambda: ThresholdCalibrator(
            GridSearchCV(
                ScoreEnsemble(members()[:2]),
                {"bank__coreset_ratio": [0.1, 0.5]},
                scoring=_share_passed,
                cv=2,
            ),
            quantile=0.9,
            cv=2,
        ),
        "rows",
        file=False,
    ),
    # Networks.
    "network-patchcore": Case(lambda: PatchCoreDetector(network(), coreset_ratio=0.02), saved=True),
    "network-padim": Case(
        lambda: PaDiMDetector(network(("layer1", "layer2"), resize=24), n_channels=6)
    ),
    "network-spade": Case(
        lambda: SPADEDetector(network(resize=16), n_image_features=32), file=False
    ),
    "network-softpatch": Case(lambda: SoftPatchDetector(network(resize=16))),
    "network-random": Case(lambda: PatchCoreDetector(network(weights=None), coreset_ratio=0.02)),
    "network-transformer": Case(
        lambda: AnomalyDINODetector(transformer(resize=32)), needs=("torch", "timm")
    ),
    "network-torch": Case(
        lambda: PatchCoreDetector(network(("layer1.0.conv1",)), coreset_ratio=0.02), needs=TORCH
    ),
    "model-industrial-balanced": Case(
        lambda: create_model(
            "industrial-balanced",
            features__weights="golden-resnet18.pth",
            features__layers=("layer1", "layer2"),
            features__resize=32,
            features__crop=None,
            features__device="cpu",
        )
    ),
    "model-industrial-accurate": Case(
        lambda: create_model(
            "industrial-accurate",
            features__weights="golden-wide.pth",
            features__layers=("layer1.0",),
            features__resize=16,
            features__crop=None,
            features__device="cpu",
        )
    ),
}


def _share_passed(estimator: Any, X: Any, y: Any = None) -> float:
    return float(np.mean(estimator.predict(X) == 1))


CASES: dict[str, Case] = {
    **dict(_patch_detectors()),
    **dict(_templates()),
    **_ONE_BY_ONE,
    **dict(_registry()),
    **dict(_steps()),
    **dict(_objects()),
}


# ---- results --------------------------------------------------------------------------
def made(case: Case) -> Any:
    """The estimator of a case, fitted, or its object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of random weights, few images, no alignment
        with sklearn.config_context(enable_metadata_routing=case.routing):
            found = case.make()
            return found.fit(inputs(case.data)[0], **case.fit) if hasattr(found, "fit") else found


# What is compared beside scores, where an estimator or its last step has it.
_ATTRIBUTES = (
    "best_index_",
    "best_score_",
    "calibration_scores_",
    "channels_",
    "coreset_radius_",
    "decision_scores_",
    "expected_false_positive_rate_",
    "false_positive_rate_interval_",
    "labels_",
    "offset_",
    "threshold_",
    "training_scores_",
    "weights_sha256_",
)


def outcome(estimator: Any, case: Case) -> dict[str, Any]:
    """All that a case is judged by: arrays, numbers and strings by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(_outcome(estimator, *inputs(case.data)))


def _outcome(estimator: Any, train: Any, test: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(estimator, "fit"):
        yield from _content("object", estimator)
        return
    if not hasattr(estimator, "decision_function"):
        yield from _content("transform test", estimator.transform(test))
        if hasattr(estimator, "get_feature_names_out"):
            yield "feature names", " ".join(estimator.get_feature_names_out())
    for part, X in (("test", test), ("train", train)):
        for method in ("score_samples", "decision_function", "predict", "p_value"):
            # The decision is the score less a constant: once is enough.
            told = method == "decision_function" and part == "train"
            if hasattr(estimator, method) and not (told and hasattr(estimator, "score_samples")):
                yield f"{method} {part}", getattr(estimator, method)(X)
    if hasattr(estimator, "score_samples"):
        try:
            maps = anomaly_map(estimator, test)
        except TypeError:  # the detector makes none
            pass
        else:
            yield from _content("anomaly_map test", maps)
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    for name in _ATTRIBUTES:
        if hasattr(last, name):
            yield name, getattr(last, name)


def _content(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, PatchGrids):
        yield f"{name}: rows", value.rows
        for part in ("grid_shapes", "image_sizes", "boxes", "work_sizes"):
            yield f"{name}: {part}", getattr(value, part)
        yield from _content(f"{name}: map", value.to_pixels(value.rows[:, 0], sigma=1.0))
    elif isinstance(value, ImageSequence):
        yield f"{name}: paths", " ".join(map(str, value.paths))
        yield f"{name}: resize", value.resize
    elif isinstance(value, (TiledImages, list)):
        for i in range(len(value)):
            yield f"{name}: {i}", value[i]
    else:
        yield name, value
