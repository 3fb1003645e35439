"""Robustness reports: figures at the unchanged threshold, streams, datasets, pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.benchmark import json_schema
from pyimgano.datasets import make_inspection_dataset
from pyimgano.evaluation import aupro, pixel_auroc
from pyimgano.exceptions import DatasetError, TooFewImagesError
from pyimgano.features import ColorMoments, FilterBankFeatures
from pyimgano.inference import anomaly_map, anomaly_scores, threshold
from pyimgano.inputs import ImageSequence
from pyimgano.robustness import (
    CORRUPTIONS,
    Corruption,
    RobustnessDisplay,
    robustness_report,
    run_robust_benchmark,
)

SIZES = {"n_train": 14, "n_test_good": 6, "n_test_defect": 7, "size": 64}
KINDS = ["gaussian_noise", "shift"]


@pytest.fixture(scope="module")
def data():
    return make_inspection_dataset("wood", **SIZES)


@pytest.fixture(scope="module")
def pipe(data):
    detector = PatchCoreDetector(FilterBankFeatures(resize=32), coreset_ratio=0.5)
    calibrated = ThresholdCalibrator(detector, quantile=0.8)
    return make_pipeline(ImageFormatNormalizer(), calibrated).fit(data.X_train)


@pytest.fixture(scope="module")
def report(pipe, data):
    return robustness_report(
        pipe, data.X_test, data.y_test, masks=data.masks_test, corruptions=KINDS, severities=[5, 2]
    )


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{i}.png" for i in range(len(data.X_test))]
    for path, image in zip(paths, data.X_test):
        Image.fromarray(image).save(path)
    return paths


def test_full_scale_of_files_is_the_pipelines(pipe, data, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, data.X_test):
        Image.fromarray(image[..., 0].astype(np.uint16) * 16).save(path)
    twelve = clone(pipe).set_params(imageformatnormalizer__u16_max=4080).fit(data.X_train)
    gray = np.repeat(data.X_test[:4, ..., :1], 3, axis=-1)
    options = {"corruptions": ["glare", "shift"], "severities": 4, "masks": data.masks_test[:4]}
    found = [robustness_report(twelve, X, data.y_test[:4], **options) for X in (paths, gray)]
    assert found[0] == found[1]


def test_figures_are_those_of_corrupted_images_at_the_clean_threshold(pipe, data, report):
    before = threshold(pipe)
    assert report["threshold"] == before
    good = data.y_test == 1
    conditions = [(None, report["clean"])] + [
        (Corruption(kind, one["severity"]), one)
        for kind in KINDS
        for one in report["corruptions"][kind]["conditions"]
    ]
    assert [one["severity"] for _, one in conditions[1:]] == [2, 5, 2, 5]
    masks = [np.asarray(np.zeros((64, 64)) if np.ndim(m) == 0 else m) for m in data.masks_test]
    for corruption, found in conditions:
        images, moved = data.X_test, masks
        if corruption is not None:
            moved = corruption.transform_masks(images, masks)
            images = corruption.transform(images)
        flagged = anomaly_scores(pipe, images) > before
        assert found["false_positive_rate"]["count"] == flagged[good].sum()
        assert found["false_positive_rate"]["n"] == 6
        assert found["miss_rate"]["value"] == (~flagged[~good]).mean()
        maps = anomaly_map(pipe, images)
        assert found["pixel_auroc"] == pytest.approx(pixel_auroc(maps, moved), abs=1e-12)
        assert found["aupro"] == pytest.approx(aupro(maps, moved), abs=1e-12)
        assert found["n_errors"] == 0
    assert threshold(pipe) == before
    assert len({json.dumps(found) for _, found in conditions}) > 2


def test_mean_and_worst(report):
    rows = [(one, kind) for kind in KINDS for one in report["corruptions"][kind]["conditions"]]
    areas = [one["image_auroc"] for one, _ in rows]
    assert report["mean"]["image_auroc"] == pytest.approx(np.mean(areas))
    assert report["worst"]["image_auroc"]["value"] == min(areas)
    alarms = [one["false_positive_rate"]["value"] for one, _ in rows]
    worst = report["worst"]["false_positive_rate"]
    one, kind = rows[int(np.argmax(alarms))]
    assert worst == {"value": max(alarms), "corruption": kind, "severity": one["severity"]}


def test_files_and_arrays_give_one_report_and_so_do_batches(pipe, data, report, files):
    options = {"masks": data.masks_test, "corruptions": KINDS, "severities": (2, 5)}
    for X, batch_size in ((files, 8), (ImageSequence(files), 8), (data.X_test, 1)):
        found = robustness_report(pipe, X, data.y_test, batch_size=batch_size, **options)
        assert found == report
    order = np.random.RandomState(0).permutation(len(files))
    options["masks"] = [data.masks_test[i] for i in order]
    mixed = robustness_report(pipe, data.X_test[order], data.y_test[order], **options)
    assert mixed == report


def test_images_in_memory_are_corrupted_a_few_at_a_time(pipe, data, monkeypatch):
    at_once = []
    transform = Corruption.transform
    monkeypatch.setattr(
        Corruption, "transform", lambda self, X: at_once.append(len(X)) or transform(self, X)
    )
    judged = []
    real = robustness_report.__globals__["iter_infer"]

    def spy(estimator, images, **options):
        assert iter(images) is images  # not a copy of all
        judged.append(options["batch_size"])
        return real(estimator, images, **options)

    monkeypatch.setitem(robustness_report.__globals__, "iter_infer", spy)
    robustness_report(
        pipe, data.X_test, data.y_test, corruptions="dust", severities=1, batch_size=4
    )
    assert at_once == [1] * 13 and judged == [4, 4]


def test_one_image_and_images_without_label(pipe, data):
    options = {"corruptions": ["gamma"], "severities": 3}
    good = int(np.argmax(data.y_test == 1))
    found = robustness_report(pipe, data.X_test[good : good + 1], [1], **options)
    assert found["clean"]["image_auroc"] is None and found["clean"]["pixel_auroc"] is None
    assert found["mean"]["miss_rate"] is None and found["worst"]["miss_rate"] is None
    assert found["clean"]["false_positive_rate"]["n"] == 1
    y = np.array([1, 0, -1])
    found = robustness_report(pipe, data.X_test[:3], y, **options)
    assert (found["n_good"], found["n_defect"], found["n_unlabeled"]) == (1, 1, 1)
    assert found["clean"]["miss_rate"]["n"] == 1


def test_what_cannot_be_read_counts_in_no_figure(pipe, data, files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"junk")
    options = {"corruptions": "scale", "severities": 1}
    masks = [*data.masks_test[:7], tmp_path / "none.png"]
    y = [*data.y_test[:7], -1]
    with pytest.warns(UserWarning, match=r"1 (test images cannot be judged|images are left out)"):
        found = robustness_report(pipe, [*files[:7], broken], y, masks=masks, **options)
    assert found["clean"]["n_errors"] == 1
    assert found["corruptions"]["scale"]["conditions"][0]["n_errors"] == 1
    assert found["clean"]["miss_rate"]["n"] == sum(one == -1 for one in y) - 1
    with pytest.raises(TooFewImagesError, match=r"none of the 1 test images .*broken.png"):
        robustness_report(pipe, [broken], [1], **options)


def test_masks_that_cannot_be_used_are_told(pipe, data):
    masks = [np.ones((5, 5), np.uint8), *data.masks_test[1:]]
    with pytest.warns(UserWarning, match="1 images are left out of the pixel metrics"):
        found = robustness_report(
            pipe, data.X_test, data.y_test, masks=masks, corruptions="shift", severities=1
        )
    assert found["n_masks_left_out"] == 1


def test_detectors_without_maps_have_rates(data):
    from pyod.models.knn import KNN

    from pyimgano import PyODDetector

    rows = ThresholdCalibrator(make_pipeline(ColorMoments(), PyODDetector(KNN())), quantile=0.8)
    found = robustness_report(
        rows.fit(data.X_train),
        data.X_test,
        data.y_test,
        masks=data.masks_test,
        corruptions="brightness",
        severities=5,
    )
    assert found["clean"]["pixel_auroc"] is None and found["clean"]["image_auroc"] is not None


def test_formats_of_pipelines(pipe, data, report, files):
    # Files say their own format, whatever the pipeline declares for arrays.
    other = clone(pipe).set_params(imageformatnormalizer__input_format="bgr_u8_hwc")
    other.fit(data.X_train[..., ::-1])
    options = {"masks": data.masks_test, "corruptions": KINDS, "severities": (2, 5)}
    assert robustness_report(other, files, data.y_test, **options) == report
    # Arrays of a dataset are RGB, and so are corrupted images.
    assert robustness_report(other, data.X_test, data.y_test, **options) == report
    # A pipeline that resizes sees corrupted images resized, and its maps go back to the masks.
    small = clone(pipe).set_params(imageformatnormalizer__resize=32).fit(data.X_train)
    both = [robustness_report(small, X, data.y_test, **options) for X in (data.X_test, files)]
    assert both[0] == both[1] and both[0]["clean"]["pixel_auroc"] is not None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"corruptions": ["fog"]}, "there is no corruption 'fog'. There are illumination_gradient"),
        ({"corruptions": []}, "at least one"),
        ({"corruptions": ["dust", "dust"]}, "each of them once"),
        ({"severities": [0]}, "from 1 to 5"),
        ({"severities": 6}, "from 1 to 5"),
        ({"severities": [1, 1]}, "each of them once"),
        ({"severities": []}, "from 1 to 5"),
        ({"severities": 2.5}, "from 1 to 5"),
    ],
)
def test_arguments_are_checked_before_anything_is_judged(options, message):
    with pytest.raises(ValueError, match=message):
        robustness_report(None, None, None, **options)


def test_labels_are_checked(pipe, data):
    with pytest.raises(ValueError, match=r"y must hold \+1"):
        robustness_report(pipe, data.X_test, data.y_test + 1)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        robustness_report(pipe, data.X_test, [1])


# ---- datasets -------------------------------------------------------------------------
BENCHMARK = {
    "model": "industrial-fast-filterbank",
    "model_options": {"features__resize": 32},
    "quantile": 0.8,
    "corruptions": ["white_balance", "rotation"],
    "severities": 4,
}


@pytest.fixture(scope="module")
def benchmark_report():
    return run_robust_benchmark(category=["wood", "terrazzo"], dataset_options=SIZES, **BENCHMARK)


def test_a_benchmark_fits_each_category_and_has_the_published_schema(benchmark_report):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema("robustness")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(benchmark_report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**benchmark_report, "new": 1}, schema)
    assert list(benchmark_report["categories"]) == ["terrazzo", "wood"]
    for name in ("clean", "corrupted"):
        values = [
            one["clean"]["image_auroc"] if name == "clean" else one["mean"]["image_auroc"]
            for one in benchmark_report["categories"].values()
        ]
        assert benchmark_report["mean"][name]["image_auroc"] == pytest.approx(np.mean(values))
    wood = benchmark_report["categories"]["wood"]
    assert wood["provenance"]["threshold"] == wood["threshold"]
    assert list(wood["corruptions"]) == ["rotation", "white_balance"]


def test_a_fitted_estimator_is_judged_as_it_is(pipe, data, report):
    options = {"corruptions": KINDS, "severities": (2, 5)}
    found = run_robust_benchmark(data, estimator=pipe, **options)
    (category,) = found["categories"].values()
    assert {name: category[name] for name in report} == json.loads(json.dumps(report))
    assert found["times"]["categories"]["wood"]["fit_seconds"] is None
    with pytest.raises(ValueError, match="has 2 here"):
        run_robust_benchmark(category=["wood", "terrazzo"], estimator=pipe, **options)
    for more in ({"quantile": 0.5}, {"limit_train": 3}, {"u16_max": 4095}):
        with pytest.raises(ValueError, match="leave out model"):
            run_robust_benchmark(data, estimator=pipe, **more, **options)
    with pytest.raises(ValueError, match="limit_test=0 must be a number of images"):
        run_robust_benchmark(data, estimator=pipe, limit_test=0, **options)
    with pytest.raises(TypeError, match="estimator"):
        run_robust_benchmark(data, estimator=[pipe], **options)


def test_a_category_that_fails_does_not_end_the_others(tmp_path):
    from pyimgano.datasets import write_inspection_dataset

    for name in ("wood", "terrazzo"):
        write_inspection_dataset(tmp_path, name, random_state=0, **SIZES)
    next((tmp_path / "terrazzo" / "train" / "good").iterdir()).write_bytes(b"junk")
    found = run_robust_benchmark("folder", root=tmp_path, **BENCHMARK)
    assert list(found["categories"]) == ["wood"]
    assert found["failed"]["terrazzo"].startswith("ImageReadError: ")
    assert str(tmp_path) not in json.dumps(found)
    with pytest.raises(DatasetError):
        run_robust_benchmark("folder", root=tmp_path / "nowhere", **BENCHMARK)


# ---- pictures --------------------------------------------------------------------------
def test_heat_maps_show_the_figures(benchmark_report):
    plt = pytest.importorskip("matplotlib.pyplot")
    categories = benchmark_report["categories"]
    display = RobustnessDisplay.from_reports(categories, figures=["image_auroc", "miss_rate"])
    assert display.axes_.shape == (2, 2)
    axes = display.axes_[1, 1]
    wood = categories["wood"]
    kinds = [kind for kind in CORRUPTIONS if kind in wood["corruptions"]]
    expected = [
        f"{100 * one['miss_rate']['value']:.0f}"
        for kind in kinds
        for one in (wood["clean"], *wood["corruptions"][kind]["conditions"])
    ]
    assert [text.get_text() for text in axes.texts] == expected
    assert [label.get_text() for label in display.axes_[1, 0].get_yticklabels()] == [
        "white balance",
        "rotation",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "4"]
    assert display.axes_[1, 0].get_ylabel() == "wood"
    with pytest.raises(ValueError, match="there is no figure 'f1'"):
        RobustnessDisplay.from_reports(categories, figures=["f1"])
    with pytest.raises(ValueError, match=r"need the shape \(2, 3\)"):
        RobustnessDisplay.from_reports(categories, axes=display.axes_[:1])
    plt.close("all")


def test_a_display_measures_an_estimator(pipe, data):
    plt = pytest.importorskip("matplotlib.pyplot")
    display = RobustnessDisplay.from_estimator(
        pipe, data.X_test[:2], [1, 1], corruptions="dust", severities=1
    )
    # One kind of images alone has no AUROC.
    assert [text.get_text() for text in display.axes_[0, 0].texts] == ["-", "-"]
    plt.close("all")
