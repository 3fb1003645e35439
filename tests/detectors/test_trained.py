"""What all detectors that train networks have in common, and STFPM and reverse distillation."""

from __future__ import annotations

import pickle
import signal
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from pyimgano import load, save
from pyimgano.backbones import _network
from pyimgano.backbones._network import digest
from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.detectors import (
    DinomalyDetector,
    PatchCoreDetector,
    ReverseDistillationDetector,
    STFPMDetector,
    SuperSimpleNetDetector,
    checkpoints,
)
from pyimgano.detectors.trained._loop import initialize, trial
from pyimgano.detectors.trained._samples import SampleStore, compact
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.exceptions import (
    ImageFormatError,
    MissingExtraError,
    RandomWeightsWarning,
    TooFewImagesError,
    TrainingError,
    TrainingImagesError,
)
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures, ViTPatchFeatures
from pyimgano.testing import make_check_images
from pyimgano.tiling import TilingTransformer

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")


def stfpm(**params):
    teacher = BackbonePatchFeatures("resnet18", ("layer1",), weights=None, resize=32)
    return STFPMDetector(teacher, **{"max_steps": 6, "batch_size": 4, **params})


def distillation(**params):
    layers = ("layer1", "layer2", "layer3")
    encoder = BackbonePatchFeatures("resnet18", layers, weights=None, resize=32)
    params = {"max_steps": 2, "batch_size": 2, "n_blocks": 1, **params}
    return ReverseDistillationDetector(encoder, **params)


def dinomaly(**params):
    pytest.importorskip("timm", reason="timm is not installed")
    settings = {"weights": None, "resize": 32, "keep_aspect": False, "layers": (0, 1)}
    transformer = ViTPatchFeatures("timm:test_vit", **settings)
    return DinomalyDetector(
        transformer, **{"max_steps": 6, "batch_size": 4, "n_blocks": 2, **params}
    )


@pytest.fixture(scope="module")
def images():
    return make_check_images(12)


def digests(detector):
    return {name: digest(values) for name, values in detector.networks_.items()}


@pytest.mark.parametrize("make", [stfpm, distillation, dinomaly])
def test_two_fits_with_one_seed_give_equal_bits_and_others_do_not(make, images):
    first, second, other = make().fit(images), make().fit(images), make(random_state=1).fit(images)
    assert digests(first) == digests(second)
    np.testing.assert_array_equal(first.training_scores_, second.training_scores_)
    np.testing.assert_array_equal(first.history_["loss"], second.history_["loss"])
    assert digests(first) != digests(other)


@pytest.mark.parametrize("make", [stfpm, distillation])
def test_the_teacher_is_the_same_before_and_after(make, images):
    before = make().features.fit(images)
    detector = make().fit(images)
    assert detector.features_.weights_sha256_ == before.weights_sha256_
    theirs = before.layer_maps(list(images[:2]))[0]
    ours = detector.features_.layer_maps(list(images[:2]))[0]
    for one, other in zip(theirs, ours):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_torchs_generator_is_untouched(images):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    stfpm().fit(images).predict(images)
    assert torch.equal(torch.rand(2), expected)


# ---- held-out images --------------------------------------------------------------------
def test_the_threshold_rests_on_held_out_images_alone(images):
    detector = stfpm(validation_fraction=0.25).fit(images)
    assert detector.held_out_.sum() == 3 and detector.held_out_.shape == (12,)
    held_out = detector.training_scores_[detector.held_out_]
    assert detector.offset_ == -np.quantile(held_out, 0.995)
    flagged = stfpm(validation_fraction=0.25, contamination=0.25).fit_predict(images)
    assert (flagged == -1).sum() == 3  # of all training images, as scikit-learn has it


def test_scores_of_training_images_are_those_of_the_networks(images):
    detector = stfpm().fit(images)
    expected = detector.training_scores_
    detector._known = {}  # nothing is recognized: the networks have to say it again
    np.testing.assert_array_equal(-detector.score_samples(images), expected)


def test_equal_images_are_held_out_together(images):
    twice = np.concatenate([images, images])
    for seed in range(3):
        detector = stfpm(max_steps=1, random_state=seed).fit(twice)
        np.testing.assert_array_equal(detector.held_out_[:12], detector.held_out_[12:])
        assert detector.held_out_.sum() == 4  # a fifth of 12 different ones, twice
    with pytest.raises(TooFewImagesError, match="2 different"):
        stfpm().fit(images[[0, 0, 0]])


def test_tiles_of_an_image_are_held_out_together(images):
    tiles = TilingTransformer(tile=32, stride=32).fit_transform(images[:5])
    detector = stfpm(max_steps=1).fit(tiles)
    assert detector.held_out_.shape == detector.training_scores_.shape == (5,)
    assert detector.held_out_.sum() == 2  # at least, so that there can be a threshold
    assert len(detector._trained_on) == 3


def test_a_feature_step_that_learns_has_not_seen_held_out_tiles(images):
    features = FilterBankFeatures(resize=32)
    tiles = TilingTransformer(tile=32, stride=32).fit_transform(images[:6])
    detector = SuperSimpleNetDetector(features, hidden_width=8, max_steps=1, batch_size=2)
    fitted, seen = FilterBankFeatures.fit, []

    def watching(self, X, y=None):
        seen.append({image.tobytes() for block in X.iter_blocks(8) for image in block})
        return fitted(self, X, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FilterBankFeatures, "fit", watching)
        patch.setattr("pyimgano.detectors.trained._base.overfits", lambda step: True)
        detector.fit(tiles)
    assert len(seen) == 2  # on all, and on those that are not held out
    held_out = images[:6][detector.held_out_]
    corners = {image[:32, :32].tobytes() for image in held_out}
    assert corners <= seen[0] and not corners & seen[1]


def test_calibrators_take_held_out_images_alone(images):
    calibrator = ThresholdCalibrator(stfpm(validation_fraction=0.5), quantile=0.8).fit(images)
    detector = calibrator.estimator_
    np.testing.assert_array_equal(
        np.sort(calibrator.calibration_scores_),
        np.sort(detector.training_scores_[detector.held_out_]),
    )
    assert "6 good images that the detector held out" in calibrator.provenance_["scores"]
    pixels = PixelThresholdCalibrator(calibrator, quantile=0.8).fit(images)
    assert "6 good images that the detector held out" in pixels.pixel_provenance_["maps"]


def test_ensembles_put_members_on_the_scale_of_held_out_images(images):
    members = [("student", stfpm()), ("bank", PatchCoreDetector(FilterBankFeatures(resize=32)))]
    ensemble = ScoreEnsemble(members, normalization="z").fit(images)
    student = ensemble.named_estimators_["student"]
    np.testing.assert_array_equal(ensemble.held_out_, student.held_out_)
    held_out = student.training_scores_[student.held_out_]
    scaled = ensemble._scales[0](held_out)
    assert abs(scaled.mean()) < 1e-9
    with pytest.raises(TrainingImagesError, match="7 of the 7"):
        ThresholdCalibrator(ensemble, cv="prefit", quantile=0.5).fit(
            images[~ensemble.held_out_][:7]
        )
    others = [("a", stfpm(random_state=0)), ("b", stfpm(random_state=3))]
    with pytest.raises(TooFewImagesError, match="one random_state"):
        ScoreEnsemble(others).fit(images)


def test_no_threshold_rests_on_images_that_were_trained_on(images):
    detector = stfpm(warm_start=True, validation_fraction=0.5).fit(images)
    new, seen = images[detector.held_out_], images[~detector.held_out_]
    for given in (detector, FrozenEstimator(detector)):
        cv = "prefit" if given is detector else "auto"
        calibrator = ThresholdCalibrator(given, cv=cv, quantile=0.5).fit(new)
        offset = calibrator.offset_
        mixed = np.concatenate([new[:1], seen])
        with pytest.raises(TrainingImagesError, match=r"6 of the 7 .* index 1"):
            calibrator.recalibrate(mixed)
        with pytest.raises(TrainingImagesError, match="6 of the 7"):
            ThresholdCalibrator(given, cv=cv, quantile=0.5).fit(mixed)
        with pytest.raises(TrainingImagesError, match="6 of the 7"):
            PixelThresholdCalibrator(calibrator, cv="prefit", quantile=0.5).fit(mixed)
        assert calibrator.offset_ == offset
    detector.fit(np.concatenate([new, make_check_images(6, random_state=8)]))
    # Images of the first fit have not been forgotten.
    with pytest.raises(TrainingImagesError, match="6 of the 6"):
        ThresholdCalibrator(detector, cv="prefit", quantile=0.5).fit(seen)
    with pytest.raises(ValueError, match="would be trained here"):
        ThresholdCalibrator(detector, quantile=0.5).fit(images)


def test_a_model_of_few_images_can_be_calibrated_saved_and_loaded(images, tmp_path):
    calibrator = ThresholdCalibrator(stfpm(max_steps=1), quantile=0.5).fit(images[:5])
    assert calibrator.estimator_.held_out_.sum() == 2
    path = tmp_path / "few.joblib"
    save(calibrator, path)
    np.testing.assert_array_equal(load(path).predict(images), calibrator.predict(images))
    with pytest.raises(TooFewImagesError, match="held out"):
        ThresholdCalibrator(stfpm(max_steps=1), quantile=0.5).fit(images[:2])


# ---- the loop ---------------------------------------------------------------------------
class Stopped(Exception):
    pass


def stop_at(detector, n):
    """Let the training end as if the process was killed, at the n-th loss in training mode."""
    loss, calls = detector._loss, []

    def dying(networks, batch, step):
        if next(iter(networks.values())).training:
            calls.append(step.number)
            if len(calls) == n:
                raise Stopped
        return loss(networks, batch, step)

    detector._loss = dying
    return calls


@pytest.mark.parametrize("make", [stfpm, distillation, dinomaly])
def test_training_that_was_killed_goes_on_to_the_same_networks(make, images, tmp_path):
    steps = 5
    expected = make(max_steps=steps).fit(images)
    killed, resumed = make(max_steps=steps), make(max_steps=steps)
    stop_at(killed, 4)
    with checkpoints(tmp_path, every=2):
        with pytest.raises(Stopped):
            killed.fit(images)
        calls = stop_at(resumed, 99)
        resumed.fit(images)
    assert calls == [2, 3, 4]  # the first two are in the file
    assert digests(resumed) == digests(expected)
    np.testing.assert_array_equal(resumed.training_scores_, expected.training_scores_)
    np.testing.assert_array_equal(resumed.history_["loss"], expected.history_["loss"])
    assert resumed.offset_ == expected.offset_


def test_each_training_has_a_checkpoint_of_its_own(images, tmp_path):
    def n_files():
        return len(list(tmp_path.glob("*.npz")))

    with checkpoints(tmp_path):
        stfpm(max_steps=1).fit(images)
        stfpm(max_steps=1, contamination=0.1, verbose=True).fit(images)  # the same networks
        assert n_files() == 1
        stfpm(max_steps=1, learning_rate=0.2).fit(images)
        stfpm(max_steps=1).fit(images[:11])
        assert n_files() == 3
    stfpm(max_steps=1, learning_rate=0.3).fit(images)
    assert n_files() == 3
    for file in tmp_path.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:-100])
    with checkpoints(tmp_path), pytest.raises(TrainingError, match="Delete it"):
        stfpm(max_steps=1).fit(images)
    with pytest.raises(FileNotFoundError, match="no folder"), checkpoints(tmp_path / "none"):
        pass
    with pytest.raises(ValueError, match="every"), checkpoints(tmp_path, every=0):
        pass


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(images, tmp_path):
    detector = stfpm().fit(images[:6])
    before, scores = dict(vars(detector)), detector.score_samples(images)
    loss = STFPMDetector._loss

    def interrupted(self, networks, batch, step):
        if step.number == 1 and networks["student"].training:
            # What the interpreter does when the signal has come.
            signal.getsignal(signal.SIGINT)(signal.SIGINT, None)
        return loss(self, networks, batch, step)

    # A background job of a shell may have been told to ignore it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch, checkpoints(tmp_path, every=100):
            patch.setattr(STFPMDetector, "_loss", interrupted)
            with pytest.raises(KeyboardInterrupt):
                detector.fit(images)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert dict(vars(detector)) == before
    np.testing.assert_array_equal(detector.score_samples(images), scores)
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as arrays:
        assert len(arrays["losses/loss"]) == 2  # the step was finished


@pytest.mark.parametrize("training", [True, False])
def test_ctrl_c_ends_a_trial_in_its_last_step_and_in_the_look_that_follows(images, training):
    detector, calls = stfpm(max_steps=200), []
    loss = detector._loss

    def interrupted(networks, batch, step):
        calls.append(networks["student"].training)
        if calls == [True] * 3 if training else not calls[-1]:
            signal.getsignal(signal.SIGINT)(signal.SIGINT, None)
        return loss(networks, batch, step)

    detector._loss = interrupted
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with trial(), pytest.raises(KeyboardInterrupt):
            detector.fit(images)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert calls == [True, True, True, False]


def test_a_loss_that_is_no_number_ends_the_training(images):
    with pytest.raises(TrainingError, match=r"diverged.*learning_rate"):
        stfpm(learning_rate=1e30, max_grad_norm=None).fit(images)


def test_early_stopping_ends_where_nothing_is_gained(images):
    idle = stfpm(max_steps=9, learning_rate=1e-12, early_stopping=True).fit(images)
    assert len(idle.history_["loss"]) < 9  # five looks without a gain
    assert len(stfpm(max_steps=9, learning_rate=1e-12).fit(images).history_["loss"]) == 9


def test_every_image_is_seen_once_in_an_epoch(images):
    detector, seen = stfpm(max_steps=4, validation_fraction=1 / 3), []
    collate = detector._collate

    def watching(samples, step):
        if len(seen) < 8:
            seen.extend(sample[0].tobytes() for sample in samples)
        return collate(samples, step)

    detector._collate = watching
    detector.fit(images)
    assert len(set(seen)) == 8  # two steps of four, all different


# ---- warm start -------------------------------------------------------------------------
def test_warm_start_goes_on_and_holds_out_only_new_images(images):
    detector = stfpm(warm_start=True).fit(images[:8])
    first = digests(detector)
    trained_on = ~detector.held_out_
    detector.set_params(max_steps=1, random_state=5).fit(images)
    assert digests(detector) != first
    assert not detector.held_out_[:8][trained_on].any()
    assert len(detector._trained_on) == trained_on.sum() + (~detector.held_out_).sum() - sum(
        trained_on & ~detector.held_out_[:8]
    )
    cold = stfpm(max_steps=1, random_state=5).fit(images)
    assert digests(detector) != digests(cold)
    known = images[:8][trained_on]
    with pytest.raises(TooFewImagesError, match="trained on every one"):
        detector.fit(known)
    detector.features = BackbonePatchFeatures("resnet18", ("layer1",), weights=None, resize=48)
    with pytest.raises(ValueError, match="features has been changed"):
        detector.fit(images)
    detector = stfpm(max_steps=1, warm_start=True).fit(images)
    detector.set_params(features__resize=48)  # in place: the step is the same object
    with pytest.raises(ValueError, match="features__resize has been changed"):
        detector.fit(images)
    detector.set_params(features__resize=32, features__batch_size=2).fit(images)
    mask = np.ones(images.shape[1:3], dtype=bool)
    with pytest.raises(ValueError, match="without a region of interest"):
        stfpm(max_steps=1, warm_start=True).fit(images).fit(images, roi_mask=mask)


def test_warm_start_refuses_networks_of_another_size(images):
    detector = distillation(warm_start=True, max_steps=1).fit(images)
    with pytest.raises(ValueError, match="warm_start=True: the networks of the last fit"):
        detector.set_params(n_blocks=2).fit(images)


# ---- STFPM and reverse distillation -----------------------------------------------------
def test_a_student_that_equals_its_teacher_finds_nothing(images):
    detector = stfpm(max_steps=1).fit(images)
    teacher = detector.features_.weights_to_embed()
    student = detector.networks_["student"]
    detector.networks_ = {"student": {name: teacher.get(name, v) for name, v in student.items()}}
    # The teacher's features are kept in float16.
    assert np.abs(detector.anomaly_map(make_check_images(2, random_state=9))).max() < 1e-5


def test_a_fitted_student_needs_no_torch(images, monkeypatch):
    new = make_check_images(2, random_state=9)
    detector = stfpm(max_steps=1).fit(images)
    scores, maps = detector.score_samples(new), detector.anomaly_map(new)
    content = pickle.dumps(detector)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "torchvision", None)
    _network.load_network.cache_clear()
    _network._kept_networks.clear()
    loaded = pickle.loads(content)
    np.testing.assert_array_equal(loaded.score_samples(new), scores)
    np.testing.assert_array_equal(loaded.anomaly_map(new), maps)
    with pytest.raises(MissingExtraError, match="STFPMDetector needs"):
        stfpm().fit(images)


def test_distillation_needs_layers_of_a_network_in_sizes_that_halve(images):
    with pytest.raises(TypeError, match="FilterBankFeatures has none: give features a name"):
        STFPMDetector(FilterBankFeatures(resize=32)).fit(images)
    layers = ("layer1", "layer2", "layer3")
    odd = BackbonePatchFeatures("resnet18", layers, weights=None, resize=48)
    with pytest.raises(ImageFormatError, match="multiple of 32"):
        ReverseDistillationDetector(odd).fit(images)
    with pytest.raises(ImageFormatError, match="trains its networks on images"):
        stfpm().fit(np.zeros((5, 3)))


def test_images_of_other_working_sizes_are_refused(images):
    teacher = BackbonePatchFeatures("resnet18", ("layer1",), weights=None, resize=None)
    detector = STFPMDetector(teacher, max_steps=1, batch_size=2)
    with pytest.raises(ImageFormatError, match=r"sample 1 .* fixed resize"):
        detector.fit([images[0], images[1][:40]])
    detector.fit(images[:4])
    with pytest.raises(ImageFormatError, match="fixed resize"):
        detector.predict([images[0][:40]])


@pytest.mark.parametrize("backbone", ["resnet50", "wide_resnet50_2"])
def test_decoders_of_large_encoders_mirror_them(backbone):
    # Three convolutions in a block, of which the middle one has the encoder's own width.
    detector = ReverseDistillationDetector(BackbonePatchFeatures(backbone, weights=None))
    detector.features_ = detector.features
    shapes = [("float16", (8 >> k, 8 >> k, 256 << k)) for k in range(3)]
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        import pyimgano.detectors.trained._reverse_distillation as module

        patch.setattr(module, "initialize", lambda network, rng: network)
        networks = detector._build(shapes, np.random.default_rng(0))
        maps = networks["decoder"](
            networks["bottleneck"](*(torch.empty(2, s[2], s[0], s[1]) for _, s in shapes))
        )
    assert [tuple(one.shape[1:]) for one in maps] == [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]
    middle = networks["decoder"].stages[0][0].body[3]
    assert middle.weight.shape[:2] == ((512, 512) if "wide" in backbone else (256, 256))
    assert [len(stage) for stage in networks["decoder"].stages] == [3, 4, 6]


# ---- parts ------------------------------------------------------------------------------
def test_samples_are_kept_as_they_are_in_memory_and_on_disk(monkeypatch):
    rng = np.random.default_rng(0)
    samples = [(rng.integers(0, 255, (3, 4), np.uint8), compact(rng.normal(size=5))) for _ in "abc"]
    monkeypatch.setattr("pyimgano.detectors.trained._samples._IN_MEMORY", 20)
    with SampleStore("A") as store:
        store.append(samples[:2])
        store.append(samples[2:])
        assert store._file._rolled
        for i in (2, 0, 1):
            for one, other in zip(store[i], samples[i]):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(compact(np.array([1e9, -1e9, 0.5])), [65504, -65504, 0.5])


def test_networks_begin_with_values_of_numpy():
    def build():
        with torch.device("meta"):
            return torch.nn.Sequential(torch.nn.Conv2d(3, 400, 5), torch.nn.BatchNorm2d(400))

    one = initialize(build(), np.random.default_rng(1)).state_dict()
    same = initialize(build(), np.random.default_rng(1)).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert float(one["0.weight"].std()) == pytest.approx((2 / (400 * 25)) ** 0.5, rel=0.02)
    assert one["0.bias"].abs().max() == 0 and (one["1.weight"] == 1).all()
    assert (one["1.running_var"] == 1).all() and one["1.running_mean"].abs().max() == 0


def test_state_that_is_not_of_the_detector_is_refused(images):
    from pyimgano.exceptions import UntrustedFileError

    detector = stfpm(max_steps=1).fit(images)
    damaged = clone(detector)
    damaged.__dict__.update(detector.__dict__)
    damaged.networks_ = {"decoder": detector.networks_["student"]}
    with warnings.catch_warnings(), pytest.raises((UntrustedFileError, KeyError)):
        warnings.simplefilter("ignore", RandomWeightsWarning)
        damaged.__dict__.pop("_loaded", None)
        damaged.score_samples(make_check_images(2, random_state=9))
