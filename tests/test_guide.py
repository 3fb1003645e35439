"""The code of README and of the user guide runs: Python as it stands, and every command.

Each page has a folder of its own with small pictures under the names that the page uses, and
names of its own for what it takes for granted. Nothing is downloaded: networks get random weights
from a file.
"""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
import shutil
import textwrap
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

import pyimgano
from pyimgano.benchmark import run_benchmark
from pyimgano.cli.main import COMMANDS, main
from pyimgano.datasets import _table, make_inspection_dataset, read_mask
from pyimgano.detectors.trained._loop import Plan
from pyimgano.export import export_bundle
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures
from pyimgano.recipes import _recipe
from tests.datasets import layouts

pytestmark = pytest.mark.usefixtures("short_runs")

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "doc/user_guide"
PAGES = [ROOT / "README.md", ROOT / "doc/index.rst", *sorted(GUIDE.glob("*.rst"))]
SUBPACKAGES = [
    *(
        "benchmark",
        "calibration",
        "datasets",
        "detectors",
        "ensemble",
        "evaluation",
        "exceptions",
        "export",
        "features",
    ),
    *("inference", "inputs", "model_selection", "monitoring", "registry", "reporting", "tiling"),
]
# Side of the pictures in pixels, and at which the filter bank works.
SIDE, RESIZE = 64, 32


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code; commands are "shell", other literal text too."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        return [(language or "shell", code) for language, code in found]
    # A directive or a paragraph that ends in two colons, and the indented lines below it.
    pattern = r"^(?:\.\. code-block:: (\w+)|.*::) *\n\n((?:(?:   .*)?\n)+)"
    found = re.findall(pattern, text, re.MULTILINE)
    return [(language or "shell", textwrap.dedent(code)) for language, code in found]


def commands(page: Path) -> list[list[str]]:
    """The commands of a page, each as its words."""
    found = []
    for language, code in blocks(page):
        if language == "shell":
            for line in code.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True) if "pyimgano" in part else []
                    # "pyimgano infer: 83 images" is what the command prints.
                    prints = len(words) > 1 and words[1].endswith(":")
                    if words and re.fullmatch(r"pyimgano(-\w+)?", words[0]) and not prints:
                        found.append(words)
    return found


def write_files(page: Path) -> None:
    """Write the files that a page shows, under the names above them."""
    text = page.read_text(encoding="utf-8")
    pattern = r"^\.\. code-block:: \w+\n   :caption: (\S+)\n\n((?:(?:   .*)?\n)+)"
    for name, content in re.findall(pattern, text, re.MULTILINE):
        Path(name).write_text(textwrap.dedent(content), encoding="utf-8")


def exit_status(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as stop:  # --dump-config, as --help
        return stop.code


def python_code(page: Path) -> list[str]:
    return [code for language, code in blocks(page) if language == "python"]


# ---- what pages take for granted --------------------------------------------------------
@pytest.fixture(scope="module")
def parts():
    """As many good parts as the smallest rate on any page needs, and a few to be judged."""
    return make_inspection_dataset(
        "bottle_cap", n_train=104, n_test_good=8, n_test_defect=6, size=SIDE
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory, parts):
    """Folders and files under the names that pages use."""
    root = tmp_path_factory.mktemp("guide")

    def write(folder, images, form="{:03d}.png"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            cv2.imwrite(str(root / folder / form.format(i)), image[..., ::-1])

    good, new = list(parts.X_train[:52]), list(parts.X_test)
    for folder in ("photos/good", "photos/new_good"):
        write(folder, good)
    for folder in ("photos/top/good", "photos/side/good", "photos/left/good"):
        write(folder, good[:9])  # of which no page states a rate
    write("photos/golden", [*good[:2], *new[-2:]])
    write("photos/new", [*new, *good[:4]])
    write("line3", new[:2])
    write("new", new[-1:], "017.png")
    write("", new[:1], "part.tif")
    (root / "maps").mkdir()
    (root / "runs/line3/checkpoints").mkdir(parents=True)
    for category in ("bottle", "screw"):
        write(f"data/{category}/train/good", good[:16])
        write(f"data/{category}/test/good", new[:3])
        write(f"data/{category}/test/scratch", new[8:11])
        masks = [read_mask(one, (SIDE, SIDE)) for one in parts.masks_test[8:11]]
        write(f"data/{category}/ground_truth/scratch", [np.dstack([m] * 3) * 255 for m in masks])
    shutil.copytree(root / "data" / "screw", root / "mvtec_anomaly_detection" / "screw")
    shutil.copytree(root / "mvtec_anomaly_detection", root / "data" / "mvtec_anomaly_detection")
    images, masks = root / "VisA/candle/Data/Images", root / "VisA/candle/Data/Masks"
    shutil.copytree(root / "data/screw/train/good", images / "Normal")
    shutil.copytree(root / "data/screw/test/scratch", images / "Anomaly")
    shutil.copytree(root / "data/screw/ground_truth/scratch", masks / "Anomaly")
    folder = "candle/Data/Images"
    rows = [
        *[("candle", "test" if i > 12 else "train", "normal", f"{folder}/Normal/{i:03d}.png", "")
          for i in range(16)],
        *[("candle", "test", "anomaly", f"{folder}/Anomaly/{i:03d}.png",
           f"candle/Data/Masks/Anomaly/{i:03d}.png") for i in range(3)],
    ]  # fmt: skip
    layouts.table(root / "VisA/split_csv/2cls_highshot.csv", rows)
    lines = [
        "path,split,label",
        *[f"data/bottle/train/good/{i:03d}.png,train,good" for i in range(16)],
        "data/bottle/test/good/000.png,test,good",
        "data/bottle/test/scratch/000.png,test,defective",
    ]
    (root / "parts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def make_small(*args, **options):
    """Make a synthetic dataset of small pictures, whatever size is asked for."""
    return make_inspection_dataset(*args, **{**options, "size": SIDE})


def a_short_plan(n_steps, batch_size, *rest):
    """Plan a training of two steps, however many are asked for."""
    return Plan(min(n_steps, 2), min(batch_size, 4), *rest)


@pytest.fixture
def small(monkeypatch):
    """Synthetic pictures and the sizes that features work at are small."""
    for module in ("pyimgano.datasets", "pyimgano.benchmark._sources"):
        monkeypatch.setattr(f"{module}.make_inspection_dataset", make_small)
    monkeypatch.setattr(FilterBankFeatures.__init__, "__defaults__", (RESIZE,))
    presets = lambda resize, **options: FilterBankFeatures(RESIZE, **options)  # noqa: E731
    monkeypatch.setattr("pyimgano._models.FilterBankFeatures", presets)
    monkeypatch.setitem(BackbonePatchFeatures.__init__.__kwdefaults__, "resize", SIDE)
    monkeypatch.setattr("pyimgano.detectors.trained._base.Plan", a_short_plan)
    # A default that has moved would make each page take minutes.
    assert FilterBankFeatures().resize == RESIZE
    assert BackbonePatchFeatures().resize == SIDE


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A ResNet-18 of random weights, as a file."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def public_names() -> dict:
    """What pages use without importing it once more."""
    from pyod.models.knn import KNN
    from sklearn.ensemble import IsolationForest
    from sklearn.model_selection import (
        GridSearchCV,
        StratifiedKFold,
        cross_val_predict,
        cross_validate,
    )
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = {
        "np": np,
        "pyimgano": pyimgano,
        "warnings": warnings,
        **{one.__name__: one for one in (KNN, IsolationForest, GridSearchCV, StratifiedKFold)},
        **{one.__name__: one for one in (cross_val_predict, cross_validate, make_pipeline)},
        "StandardScaler": StandardScaler,
    }
    for name in SUBPACKAGES:
        module = importlib.import_module(f"pyimgano.{name}")
        names.update({one: getattr(module, one) for one in module.__all__})
    return {**names, **{one: getattr(pyimgano, one) for one in pyimgano.__all__}}


class Camera:
    """A camera as OpenCV has it."""

    def __init__(self, frames):
        self._frames = iter(frames)

    def read(self):
        return True, next(self._frames)


def taken_for_granted(page: str, parts) -> dict:
    """Names that a page uses as if the reader had them."""
    n_good = {"thresholds": 104, "pipelines": 12}.get(page, 52)  # its rates, its many fits
    good, new = parts.X_train[:n_good], parts.X_test
    names = {
        "good_images": list(good[:12]), "new_good_images": list(good[12:16]),
        "defective_images": list(new[8:10]),
        "masks_of_defects": [read_mask(one, (SIDE, SIDE)) > 0 for one in parts.masks_test[8:10]],
        "good": good, "good_frames": good[:52], "frames": new, "new_good": good,
        "held_out": new[:8],
        "X_test": new, "y_test": parts.y_test, "masks_test": parts.masks_test, "data": parts,
        "good_paths": sorted(map(str, Path("photos/good").iterdir())),
        "first_paths": sorted(map(str, Path("photos/new_good").iterdir())),
        "new_paths": sorted(map(str, Path("photos/new_good").iterdir())),
        "paths": sorted(map(str, Path("photos/new").iterdir())),
        "known_parts": sorted(map(str, Path("photos/new").iterdir())),
        "good_paths_left": sorted(map(str, Path("photos/left/good").iterdir())),
        "root": "mvtec_anomaly_detection",
        "mask": np.ones((SIDE, SIDE), dtype=bool),
        "images": [*good[:12], *new[8:]],
        "labels": np.array([1] * 12 + [-1] * len(new[8:])),
        "camera": Camera(new[..., ::-1]),
        "top_frame": new[0], "side_frame": new[1], "frame": new[0],
        "bright": good[:12, ..., 0], "dark": good[:12, ..., 1], "side": good[:12, ..., 2],
    }  # fmt: skip
    detector = pyimgano.PatchCoreDetector("filterbank", coreset_ratio=0.05)
    from sklearn.pipeline import make_pipeline

    if page == "detectors":
        names["pipe"] = make_pipeline(pyimgano.ImageFormatNormalizer(), detector)
    elif page in (
        *("cameras", "delivery", "evaluation", "first_inspection", "inference", "monitoring"),
        *("false_alarms", "robustness", "thresholds"),
    ):
        calibrator = pyimgano.ThresholdCalibrator(detector, quantile=0.9)
        names["pipeline"] = detector
        pipe = make_pipeline(pyimgano.ImageFormatNormalizer(), calibrator).fit(names["good_paths"])
        names.update(pipe=pipe, calibrator=pipe[-1], limits=(0.0, 1.0))
        for name in ("line3", "top", "side", "both"):
            pyimgano.save(pipe, f"{name}.joblib")
    if page == "cameras":
        names["frames"] = {"top": new[0], "side": new[1]}
    return names


# Folders of many files, and the word without which a page uses none of them.
DATASETS = {"data": "data", "VisA": "VisA", "mvtec_anomaly_detection": "mvtec"}


@pytest.fixture
def folder(tree, page, tmp_path, monkeypatch):
    """A copy of the folders that a page uses, to run it in."""
    text = page.read_text(encoding="utf-8")
    unused = [name for name, word in DATASETS.items() if word not in text]

    def left_out(place, names):
        return unused if Path(place) == tree else ()

    shutil.copytree(tree, tmp_path / "here", ignore=left_out)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def make_runs(text: str) -> None:
    """Make the run directories that a page names."""
    for name in sorted(set(re.findall(r"runs/(\d{8}-\d{6}_mvtec_ad_\w+)", text))):
        model = "industrial-fast" if name.endswith("_patchcore") else "vision_padim"
        options = {"features": "filterbank"} if model == "vision_padim" else {}
        result = run_benchmark(
            "mvtec_ad", root="mvtec_anomaly_detection", model=model, model_options=options
        )
        result.path.rename(Path("runs") / name)


# ---- the tests --------------------------------------------------------------------------
def test_blocks_are_found():
    assert len(PAGES) >= 20
    assert len(python_code(ROOT / "README.md")) == 2
    assert len(python_code(GUIDE / "thresholds.rst")) >= 6
    assert ["pyimgano", "train", "photos/good", "-o", "line3.joblib"] in commands(
        GUIDE / "first_inspection.rst"
    )
    assert any("--set" in command for command in commands(GUIDE / "command_line.rst"))
    for page in PAGES:
        # Nothing that looks like Python or a command escapes.
        text = page.read_text(encoding="utf-8")
        assert len(python_code(page)) == len(re.findall("code-block:: python|```python", text))


@pytest.mark.filterwarnings("ignore")  # of few images, and of random weights
@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_code(page)], ids=lambda page: page.stem
)
def test_python_runs(page, folder, small, parts, request, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("matplotlib.pyplot")
    matplotlib.use("Agg")
    code = python_code(page)
    if "resnet18.pth" in "".join(code):
        shutil.copy(request.getfixturevalue("weights"), "resnet18.pth")
    make_runs("".join(code))
    names = {**public_names(), **taken_for_granted(page.stem, parts)}
    if "line3.zip" in "".join(code):
        detector = pyimgano.PatchCoreDetector("filterbank", coreset_ratio=0.05)
        export_bundle(detector.fit(parts.X_train[:20]), "line3.zip")
    monkeypatch.setattr(_table, "_registered", {})
    monkeypatch.setattr(_recipe, "_registered", {})
    with warnings.catch_warnings():
        for i, block in enumerate(code):
            exec(compile(block, f"{page.name}, block {i + 1}", "exec"), names)
    matplotlib.pyplot.close("all")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem
)
def test_commands_run(page, folder, small, parts, request, capsys):
    found = commands(page)
    words = " ".join(word for command in found for word in command)
    if "resnet18.pth" in words:
        shutil.copy(request.getfixturevalue("weights"), "resnet18.pth")
    network = None
    if "--weights" in words:
        features = BackbonePatchFeatures("resnet18", weights="resnet18.pth", resize=SIDE)
        network = pyimgano.ThresholdCalibrator(
            pyimgano.PatchCoreDetector(features, coreset_ratio=0.05), quantile=0.9
        ).fit(parts.X_train[:52])
    make_runs(words)
    write_files(page)
    if ".yaml" in words:
        pytest.importorskip("yaml", reason="PyYAML is not installed")
    if "both.joblib" in words or not re.search("train .* -o line3.joblib", words):
        detector = pyimgano.PatchCoreDetector("filterbank", coreset_ratio=0.05)
        ready = pyimgano.ThresholdCalibrator(detector).fit(parts.X_train[:52])
        for name in ("line3.joblib", "both.joblib"):
            pyimgano.save(ready, name)
    for command in found:
        if command[:2] == ["pyimgano", "infer"] and "--weights" in command:
            pyimgano.save(network, command[2])
        command, target = command[: -2 if ">" in command else None], command[-1]
        name, _, rest = command[0].partition("-")
        capsys.readouterr()
        status = exit_status([rest, *command[1:]] if rest else command[1:])
        out, err = capsys.readouterr()
        assert status == 0, f"{' '.join(command)}\n{err}"
        if target not in command:
            Path(target).write_text(out, encoding="utf-8")


def test_extras_that_pages_install_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(setup["options.extras_require"])
    named = {
        extra
        for page in PAGES
        for group in re.findall(r'(?:\.|pyimgano)\[([\w,-]+)\]"', page.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert named and named <= extras


def test_every_command_is_described():
    text = (ROOT / "doc/user_guide/command_line.rst").read_text(encoding="utf-8")
    assert all(f"`pyimgano {name}`" in text for name in COMMANDS)
