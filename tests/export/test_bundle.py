"""Bundles: what is in them, that they score the same elsewhere, and that nothing slips in."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.calibration import PixelThresholdCalibrator
from pyimgano.datasets import make_inspection_dataset
from pyimgano.defects import DefectExtractor
from pyimgano.detectors import DRAEMDetector
from pyimgano.exceptions import BundleError, TooFewImagesWarning, UntrustedFileError, WeightsError
from pyimgano.export import export_bundle, json_schema, open_bundle, read_infer_config, validate
from pyimgano.export._bundle import file_entry, unpacked
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures

DATA = make_inspection_dataset(n_train=12, n_test_good=3, n_test_defect=3, size=64, random_state=0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Photos, a fitted pipeline, and its bundle as a folder."""
    shop = tmp_path_factory.mktemp("shop")
    for folder, images in (("good", DATA.X_train), ("golden", DATA.X_test)):
        (shop / folder).mkdir()
        for i, image in enumerate(images):
            cv2.imwrite(str(shop / folder / f"part {i:02d}.png"), image[..., ::-1])
    pipe = calibrated(FilterBankFeatures(resize=32)).fit(paths(shop / "good"))
    pyimgano.save(pipe, shop / "line3.joblib", map_range=(0.5, 2.0))
    export_bundle(shop / "line3.joblib", shop / "line3", golden=paths(shop / "golden"), notes="M8")
    return shop


@pytest.fixture
def bundle(shop, tmp_path):
    """A copy of the bundle, on another machine."""
    return Path(shutil.copytree(shop / "line3", tmp_path / "elsewhere"))


def calibrated(features):
    detector = PatchCoreDetector(features, coreset_ratio=0.05)
    return make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.9))


def paths(folder):
    return sorted(str(path) for path in folder.iterdir())


def edit(bundle, **changes):
    """Change the configuration, and let the manifest fit again."""
    file = bundle / "infer_config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    refresh(bundle)
    return config


def refresh(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {
        name: file_entry(bundle / name) for name in manifest["files"] if (bundle / name).exists()
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def failures(path):
    return {check.name: check.detail for check in validate(path).checks if not check.ok}


# ---- what is in it --------------------------------------------------------------------
def test_a_bundle_scores_the_same_elsewhere_as_a_folder_and_packed(shop, bundle, tmp_path):
    pipe = pyimgano.load(shop / "line3.joblib")
    packed = export_bundle(pipe, tmp_path / "line3.zip", golden=paths(shop / "golden")[:1])
    packed = shutil.move(packed, tmp_path / "renamed.zip")
    for path, n_golden, limits in ((bundle, 6, (0.5, 2.0)), (packed, 1, None)):
        result = validate(path)
        names = ("manifest", "files", "schema", "versions", "pipeline", "configuration", "golden")
        assert tuple(check.name for check in result.checks) == names
        assert result.ok and f"{n_golden} images score as they did, bit" in result.checks[-1].detail
        jsonschema.validate(result.to_dict(), json_schema("validation"))
        again = open_bundle(path)
        np.testing.assert_array_equal(
            again.estimator.score_samples(DATA.X_test), pipe.score_samples(DATA.X_test)
        )
        assert again.map_range == limits


def test_the_configuration_says_what_the_pipeline_is(shop, bundle):
    config = read_infer_config(bundle / "infer_config.json")
    calibrator = pyimgano.load(shop / "line3.joblib")[-1]
    assert config["threshold"]["value"] == calibrator.threshold_
    assert config["threshold"]["provenance"]["n_images"] == 12
    assert config["model"]["classes"][:2] == ["Pipeline", "ImageFormatNormalizer"]
    assert config["preprocessing"] == [
        {
            "step": "ImageFormatNormalizer",
            "parameters": {"input_format": "rgb_u8_hwc", "resize": None, "u16_max": 65535},
        }
    ]
    assert [one["file"] for one in config["golden"]][:2] == [
        "golden/01_part-00.png",
        "golden/02_part-01.png",
    ]
    scores = -pyimgano.load(shop / "line3.joblib").score_samples(paths(shop / "golden"))
    assert [one["score"] for one in config["golden"]] == scores.tolist()
    assert [one["pred"] for one in config["golden"]] == (scores > calibrator.threshold_).tolist()
    manifest = json.loads((bundle / "manifest.json").read_text())
    jsonschema.validate(manifest, json_schema("manifest"))
    files = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert files == {*manifest["files"], "manifest.json"}


def test_the_model_card_states_rates_and_limits(bundle):
    for ending in ("md", "html"):
        card = (bundle / f"model_card.{ending}").read_text()
        assert "M8" in card and "of new good parts will be called bad" in card
        assert "12 good images support no rate below 7.7%" in card
        assert "golden/06_part-05.png" in card and "Limits" in card


def test_an_uncalibrated_detector_says_so(shop, tmp_path):
    detector = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(DATA.X_train)
    path = export_bundle(detector, tmp_path / "bare")
    assert "was not calibrated" in (path / "model_card.md").read_text()
    assert read_infer_config(path / "infer_config.json")["threshold"]["provenance"] is None
    assert "no golden images" in validate(path).checks[-1].detail


def test_no_folder_of_the_machine_is_in_a_bundle(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="writes a state dict")
    home = tmp_path / "secret-home"
    home.mkdir()
    step = BackbonePatchFeatures("resnet18", ("layer1",), None, resize=32, embed_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = step.fit(DATA.X_train[:1]).embedded_weights_
    torch.save({name: torch.tensor(v) for name, v in state.items()}, home / "net.pth")
    network = BackbonePatchFeatures("resnet18", ("layer1",), str(home / "net.pth"), resize=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewImagesWarning)
        pipe = calibrated(network).fit(DATA.X_train)
    before = pipe.score_samples(DATA.X_test)
    whole = export_bundle(pipe, tmp_path / "whole")
    without = export_bundle(pipe, tmp_path / "without", embed_weights=False)
    for path in (*whole.rglob("*"), *without.rglob("*")):
        assert path.is_dir() or b"secret-home" not in path.read_bytes(), path
    assert str(home) in pipe[-1].estimator_.features_.weights  # that of the caller is as it was

    weights = shutil.move(home / "net.pth", tmp_path / "moved.pth")
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path / "none"))
    np.testing.assert_array_equal(open_bundle(whole).estimator.score_samples(DATA.X_test), before)
    (network,) = read_infer_config(without / "infer_config.json")["model"]["networks"]
    assert (network["embedded"], network["file"]) == (False, "net.pth")
    with pytest.raises(WeightsError, match=network["file_sha256"]):
        open_bundle(without).estimator.score_samples(DATA.X_test)
    monkeypatch.setenv("PYIMGANO_WEIGHTS", str(Path(weights).parent))
    np.testing.assert_array_equal(open_bundle(without).estimator.score_samples(DATA.X_test), before)


# ---- what is not as it was delivered --------------------------------------------------
def test_no_folder_that_training_read_is_in_a_bundle(tmp_path):
    pytest.importorskip("torch", reason="trains networks")
    textures = tmp_path / "secret-home" / "cloth"
    textures.mkdir(parents=True)
    cv2.imwrite(str(textures / "one.png"), DATA.X_train[0])
    detector = DRAEMDetector(
        resize=32, width=2, max_steps=1, batch_size=2, device="cpu", textures=str(textures)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(DATA.X_train)
    bundle = export_bundle(detector, tmp_path / "bundle")
    for path in bundle.rglob("*"):
        assert path.is_dir() or b"secret-home" not in path.read_bytes(), path
    again = open_bundle(bundle).estimator
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no parameter counts as changed since fit
        scores = again.score_samples(DATA.X_test[:2])
    np.testing.assert_array_equal(scores, detector.score_samples(DATA.X_test[:2]))
    assert detector.textures == str(textures)  # that of the caller is as it was


def change_a_byte(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)


@pytest.mark.parametrize("name", ["pipeline.joblib", "golden/03_part-02.png", "model_card.html"])
def test_a_changed_byte_is_named(bundle, name):
    change_a_byte(bundle, name)
    assert f"{name} was changed" in failures(bundle)["files"]
    if name == "pipeline.joblib":
        with pytest.raises(BundleError, match=r"pipeline\.joblib was changed"):
            open_bundle(bundle)


@pytest.mark.parametrize("name", ["pipeline.joblib", "golden/01_part-00.png", "infer_config.json"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    assert f"{name} is missing" in failures(bundle)["files"]


def test_another_pipeline_of_a_fitting_manifest_is_found(bundle, tmp_path):
    other = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(DATA.X_train)
    pyimgano.save(other, bundle / "pipeline.joblib")
    refresh(bundle)
    assert list(failures(bundle)) == ["pipeline"]
    with pytest.raises(UntrustedFileError, match="SHA-256"):
        open_bundle(bundle)


def test_an_edited_threshold_is_found_though_the_manifest_fits(bundle):
    config = read_infer_config(bundle / "infer_config.json")
    edit(bundle, threshold={**config["threshold"], "value": 99.5})
    found = failures(bundle)
    assert list(found) == ["configuration"]
    assert "threshold is 99.5 in it and " in found["configuration"]
    with pytest.raises(BundleError, match=r"threshold is 99\.5 in it"):
        open_bundle(bundle)
    edit(bundle, threshold={**config["threshold"], "provenance": {"n_images": 10_000}})
    assert "provenance of the threshold" in failures(bundle)["configuration"]


def test_a_swapped_golden_image_is_found_though_the_manifest_fits(bundle):
    one, two = bundle / "golden/01_part-00.png", bundle / "golden/05_part-04.png"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    assert {"files"} < set(failures(bundle))
    refresh(bundle)
    found = failures(bundle)
    assert list(found) == ["golden"]
    assert "01_part-00.png scores" in found["golden"] and "05_part-04.png" in found["golden"]
    one.write_bytes(b"no image")
    refresh(bundle)
    assert "01_part-00.png" in failures(bundle)["golden"]


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({"schema_version": 99}, "schema", "schema_version 99"),
        ({"schema_version": "2"}, "schema", "schema_version '2'"),
        ({"pyimgano": "99.0.1"}, "versions", "made with pyimgano 99.0.1"),
        ({"pyimgano": "newest"}, "schema", "pyimgano: 'newest'"),
        ({"threshold": "high"}, "schema", "threshold: 'high'"),
        ({"golden": ...}, "schema", "'golden' is a required property"),
        ({"note": 1}, "schema", "'note' was unexpected"),
        ({"golden": [{"file": "../../etc/passwd", "score": 1.0, "pred": 0}]}, "schema", "passwd"),
        ({"input_format": "bgr_u8_hwc"}, "configuration", "input_format is 'bgr_u8_hwc' in it"),
        ({"tiling": {"tile_size": 64}}, "configuration", "tiling"),
    ],
)
def test_a_configuration_that_is_wrong_or_of_another_version(bundle, changes, check, message):
    edit(bundle, **changes)
    found = failures(bundle)
    assert list(found) == [check] and message in found[check]


def test_an_edited_configuration_is_not_opened(bundle):
    for threshold in (3.0, [], "high"):
        edit(bundle, threshold=threshold)
        with pytest.raises(BundleError, match="threshold is "):
            open_bundle(bundle)
    model = {"file": "pipeline.joblib", "sha256": "none"}
    edit(bundle, model=model)
    with pytest.raises(BundleError, match="has no SHA-256 of its pipeline"):
        open_bundle(bundle)


def test_a_manifest_that_is_wrong(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    for wrong, message in (
        ({**manifest, "schema_version": 7}, "schema_version 7"),
        ({**manifest, "files": {**manifest["files"], "../x": manifest["files"]}}, "'../x'"),
        ({**manifest, "files": {"infer_config.json": {"size": 1}}}, "no size and SHA-256"),
        ({**manifest, "files": {}}, "does not list infer_config.json"),
        ([], "no JSON object"),
    ):
        (bundle / "manifest.json").write_text(json.dumps(wrong))
        assert message in failures(bundle)["manifest"]
    (bundle / "manifest.json").write_text("{")
    assert "not JSON" in failures(bundle)["manifest"]
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        validate(bundle)


def test_files_that_nobody_listed_are_told_and_not_used(bundle):
    (bundle / "notes.txt").write_text("from the line")
    result = validate(bundle)
    assert result.ok and "not in manifest.json: notes.txt" in result.checks[1].detail


def test_a_listed_name_too_long_for_a_file_is_missing(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["x" * 300] = manifest["files"]["pipeline.joblib"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert failures(bundle) == {"files": f"{'x' * 300} is missing"}


def test_files_that_are_used_have_to_be_listed(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    file = manifest["files"].pop("pipeline.joblib.json")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"pipeline\.joblib\.json is not in manifest\.json"):
        open_bundle(bundle)
    manifest["files"]["pipeline.joblib.json"] = file
    for name, check in (("golden/01_part-00.png", "golden"), ("pipeline.joblib", "pipeline")):
        del manifest["files"][name]
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        assert name in failures(bundle)[check]


def test_a_configuration_by_itself_is_checked_against_its_pipeline(bundle):
    (bundle / "manifest.json").unlink()
    assert validate(bundle / "infer_config.json").ok
    assert open_bundle(bundle / "infer_config.json").config["u16_max"] == 65535
    change_a_byte(bundle, "pipeline.joblib")
    assert list(failures(bundle / "infer_config.json")) == ["pipeline"]


# ---- archives -------------------------------------------------------------------------
def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_archives_that_lead_elsewhere_or_unpack_to_too_much(tmp_path):
    manifest = {"manifest.json": "{}"}
    for name in ("../out.txt", "/out.txt", "a/../../out.txt", "a\\..\\out.txt", "C:out.txt"):
        path = archive(tmp_path / "one.zip", **manifest, **{name: "x"})
        with pytest.raises(BundleError, match="no file of a bundle"):
            open_bundle(path)
    assert not list(tmp_path.parent.glob("out.txt"))
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr("manifest.json", "{}")
        file.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="'link', which is no file"):
        open_bundle(tmp_path / "link.zip")
    path = archive(tmp_path / "bomb.zip", **manifest, zeros=bytes(40_000_000))
    with pytest.raises(BundleError, match="far more than it holds"):
        open_bundle(path)
    with pytest.raises(BundleError, match=r"no manifest\.json in it"):
        open_bundle(archive(tmp_path / "other.zip", a="b"))
    with pytest.raises(BundleError, match="'a/b', which is no file"):
        open_bundle(archive(tmp_path / "both.zip", **manifest, **{"a": "x", "a/b": "y"}))


def test_a_damaged_archive_is_an_error(shop, tmp_path):
    path = export_bundle(shop / "line3.joblib", tmp_path / "line3.zip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        open_bundle(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="is no bundle"):
        validate(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_any_byte_of_an_archive_may_be_changed(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("manifest.json", '{"schema_version": 1} ' * 9)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x91]) + content[i + 1 :])
        with suppress(BundleError), unpacked(path):
            pass


# ---- making one -----------------------------------------------------------------------
def test_what_exists_is_kept_and_a_failed_export_leaves_nothing(shop, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "photo.png").write_bytes(b"x")
    (tmp_path / "taken.zip").write_bytes(b"x")
    for name in ("taken", "taken.zip"):
        with pytest.raises(BundleError, match="exists; give another name"):
            export_bundle(shop / "line3.joblib", tmp_path / name)
    with pytest.raises(BundleError, match="does not exist; create it"):
        export_bundle(shop / "line3.joblib", tmp_path / "no" / "such")
    with pytest.raises(BundleError, match=r"golden image .*no such file"):
        export_bundle(shop / "line3.joblib", tmp_path / "new", golden=["nothing.png"])
    with pytest.raises(BundleError, match=r"golden images cannot be scored: .*photo"):
        export_bundle(
            shop / "line3.joblib", tmp_path / "new", golden=[tmp_path / "taken" / "photo.png"]
        )
    assert sorted(os.listdir(tmp_path)) == ["taken", "taken.zip"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.part").symlink_to(tmp_path / "taken")  # not of an export
    (tmp_path / "empty.2.part").mkdir()
    (tmp_path / "empty.2.part" / "photo.png").write_bytes(b"x")
    assert validate(export_bundle(shop / "line3.joblib", tmp_path / "empty")).ok
    assert os.listdir(tmp_path / "empty.part") == os.listdir(tmp_path / "empty.2.part")
    assert "empty.3.part" not in os.listdir(tmp_path)


# ---- earlier versions -----------------------------------------------------------------
def test_a_configuration_of_version_1_is_read(bundle):
    old = Path(__file__).parent / "data" / "version_1" / "infer_config.json"
    config = read_infer_config(old)
    jsonschema.validate(config, json_schema("infer_config"))
    assert config["threshold"] == {"value": 1.25, "provenance": {"n_images": 60}}
    assert config["pixel_threshold"] is None and config["defects"] is None
    current = json.loads((bundle / "infer_config.json").read_text())
    value, provenance = current["threshold"]["value"], current["threshold"]["provenance"]
    edit(
        bundle,
        schema_version=1,
        threshold=value,
        threshold_provenance=provenance,
        pixel_threshold=...,
        defects=...,
    )
    assert validate(bundle).ok
    edit(bundle, threshold=...)
    assert "version 1" in failures(bundle)["schema"]


def test_defects_are_described_with_their_threshold(shop, tmp_path):
    model = PixelThresholdCalibrator(
        calibrated(FilterBankFeatures(resize=32))[-1], DefectExtractor(min_area=4), quantile=0.8
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewImagesWarning)
        path = export_bundle(model.fit(DATA.X_train), tmp_path / "defects")
    config = read_infer_config(path / "infer_config.json")
    assert config["pixel_threshold"]["value"] == model.pixel_threshold_
    assert config["defects"]["min_area"] == 4
    assert validate(path).ok and "will have one" in (path / "model_card.md").read_text()
    edit(path, pixel_threshold={**config["pixel_threshold"], "value": 3.0})
    assert "pixel_threshold is 3.0 in it" in failures(path)["configuration"]
