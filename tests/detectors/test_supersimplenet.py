"""SuperSimpleNet: what the noise teaches, and known defects."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline

from pyimgano.backbones._network import digest
from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.detectors import SuperSimpleNetDetector, checkpoints
from pyimgano.detectors.trained._supersimplenet import _defective_cells
from pyimgano.detectors.trained._supersimplenet_networks import resampling
from pyimgano.exceptions import ImageFormatError, SynthesisError
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.synthesis import DefectSynthesizer
from pyimgano.testing import make_check_images
from pyimgano.tiling import TilingTransformer

torch = pytest.importorskip("torch")

GOOD = make_check_images(12)
BAD = make_check_images(3, defect=True, random_state=2)
X, Y = np.concatenate([GOOD, BAD]), np.array([1] * 12 + [-1] * 3)


@pytest.fixture(scope="module")
def features():
    return FrozenEstimator(FilterBankFeatures(resize=32).fit(GOOD))


@pytest.fixture
def make(features):
    def make(**params):
        fast = {"hidden_width": 64, "noise_std": 0.6, "learning_rate": 3e-3, "upsample": 1}
        sizes = {"max_steps": 20, "batch_size": 4, "n_positions": 32}
        return SuperSimpleNetDetector(features, **{**fast, **sizes, **params})

    return make


def masks_of(mask):
    return [None] * 12 + [mask, None, mask]


@pytest.fixture
def mask():
    found = np.zeros(X.shape[1:3], dtype=bool)
    found[16:32, 24:40] = True
    return found


def test_without_noise_nothing_is_learned(make):
    loss = make(noise_std=1e-9).fit(GOOD).history_["loss"]
    # The truncated terms are at least 1 in sum where both kinds have one distribution.
    assert loss.min() >= 1.0
    assert make().fit(GOOD).history_["loss"].min() < 0.7


def test_there_is_a_score_head_where_defects_are_known(make, mask):
    without = make().fit(GOOD)
    assert without.n_defects_ == 0 and set(without.networks_) == {"adaptor", "map_head"}
    heat = without.anomaly_map(BAD)
    assert (without.transform(BAD)[:, 0] >= heat.max(axis=(1, 2)) - 1e-6).all()
    with_them = make().fit(X, Y, masks=masks_of(mask))
    assert with_them.n_defects_ == 3 and "score_head" in with_them.networks_
    assert len(with_them.training_scores_) == 12
    scores = with_them.score_samples(X)
    assert scores[12:].max() < scores[:12].min()
    assert list(with_them.predict(BAD)) == [-1, -1, -1]


def test_masks_teach_the_map_where_defects_are(make, mask):
    weak, strong = make().fit(X, Y), make().fit(X, Y, masks=masks_of(mask))
    fresh = make_check_images(2, random_state=7)

    def contrast(detector):
        heat = np.stack(detector.anomaly_map(BAD))
        return heat[:, mask].mean() - heat[:, ~mask].mean()

    assert contrast(strong) > contrast(weak)
    assert not np.array_equal(weak.score_samples(fresh), strong.score_samples(fresh))


def test_training_with_defects_is_reproducible_and_goes_on_after_a_kill(make, mask, tmp_path):
    params = {"masks": masks_of(mask)}
    one = make(max_steps=6).fit(X, Y, **params)
    with checkpoints(tmp_path, every=2):
        two = make(max_steps=6).fit(X, Y, **params)
        again = make(max_steps=6).fit(X, Y, **params)  # all of it is in the file
        assert len(list(tmp_path.glob("*.npz"))) == 1
        make(max_steps=6).fit(X, Y)  # without masks it is another training
        assert len(list(tmp_path.glob("*.npz"))) == 2
    for other in (two, again):
        for name, values in one.networks_.items():
            assert digest(values) == digest(other.networks_[name])
    together = one.score_samples(X)
    alone = [one.score_samples(X[i : i + 1])[0] for i in range(len(X))]
    np.testing.assert_array_equal(together, alone)


def test_cross_entropy_of_networks_that_tell_nothing_is_that_of_a_coin(make):
    # Without noise both kinds have one distribution: no loss is below log 2.
    loss = make(noise_std=1e-9, map_loss="cross_entropy").fit(GOOD).history_["loss"]
    assert loss.min() >= np.log(2) - 1e-6
    assert make(map_loss="cross_entropy").fit(GOOD).history_["loss"].min() < 0.6
    with pytest.raises(ValueError, match="'map_loss' parameter"):
        make(map_loss="focal").fit(GOOD)


def test_painted_defects_are_learned_from(make, monkeypatch):
    calls = []
    synthesize = DefectSynthesizer.synthesize

    def watching(self, images, *, indices=None):
        made = synthesize(self, images, indices=indices)
        calls.append((self.mask, list(indices), made))
        return made

    monkeypatch.setattr(DefectSynthesizer, "synthesize", watching)
    plain, one, two = make(), make(paint_defects=True), make(paint_defects=True)
    plain.fit(GOOD)
    assert not calls
    one.fit(GOOD)
    # One on each image that is trained on, none on those that are held out.
    assert sorted(i for _, indices, _ in calls for i in indices) == list(
        np.flatnonzero(~one.held_out_)
    )
    images = np.concatenate([made.images for _, _, made in calls])
    masks = np.concatenate([made.masks for _, _, made in calls])

    def contrast(detector):
        heat = np.stack(detector.anomaly_map(images))
        return heat[masks].mean() - heat[~masks].mean()

    assert contrast(one) > contrast(plain) + 0.1
    assert set(one.networks_) == {"adaptor", "map_head"} and one.n_defects_ == 0
    for name, values in two.fit(GOOD).networks_.items():
        assert digest(values) == digest(one.networks_[name])


def test_defects_are_painted_inside_the_region_and_beside_known_ones(make, mask, monkeypatch):
    painted = []
    synthesize = DefectSynthesizer.synthesize

    def watching(self, images, *, indices=None):
        made = synthesize(self, images, indices=indices)
        painted.extend(made.masks)
        return made

    monkeypatch.setattr(DefectSynthesizer, "synthesize", watching)
    region = np.zeros(X.shape[1:3], dtype=bool)
    region[8:56, 8:56] = True
    detector = make(paint_defects=True)
    detector.fit(X, Y, masks=masks_of(mask), roi_mask=region)
    assert painted and not any(one[~region].any() for one in painted)
    assert detector.n_defects_ == 3 and "score_head" in detector.networks_
    tiles = TilingTransformer(tile=32, stride=32).fit_transform(GOOD)
    painted.clear()
    in_tiles = make(paint_defects=True).fit(tiles)
    assert len(painted) == 4 * np.count_nonzero(~in_tiles.held_out_)


def test_of_large_painted_defects_some_positions_are_kept(make):
    def painted(**params):
        detector, found = make(paint_defects=True, max_steps=1, upsample=4, **params), []
        collate = detector._collate

        def watching(samples, step):
            found[:] = detector._painted
            return collate(samples, step)

        detector._collate = watching
        detector.fit(GOOD)
        return dict(zip(np.flatnonzero(~detector.held_out_).tolist(), found))

    everything, few = painted(n_positions=32), painted(n_positions=1)
    less = painted(n_positions=1, validation_fraction=0.5)
    assert {len(rows) > 4 for rows in everything.values()} == {True, False}
    assert max(map(len, everything.values())) < 4 * 32
    for i, rows in few.items():
        whole = [row.tobytes() for row in everything[i]]
        kept = [row.tobytes() for row in rows]
        if len(whole) <= 4:
            assert kept == whole
        else:
            assert len(kept) == 4 and set(kept) <= set(whole)
        if i in less:  # whichever images are trained on
            np.testing.assert_array_equal(less[i], rows)
    assert less.keys() & few.keys() and less.keys() != few.keys()


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
def test_painted_defects_that_the_features_do_not_see_are_told(make):
    part = np.full((12, 64, 64, 3), 20, np.uint8)
    part[:, 2:14, 2:60] = 180 + np.arange(12, dtype=np.uint8)[:, None, None, None]
    beside = BackbonePatchFeatures("resnet18", ("layer1",), weights=None, resize=64, crop=16)
    with pytest.raises(SynthesisError, match="lies inside what the features see"):
        make(paint_defects=True, max_steps=1).set_params(features=beside).fit(part)


def test_training_with_painted_defects_goes_on_after_a_kill(make, tmp_path):
    params = {"max_steps": 5, "paint_defects": True}
    expected, killed, resumed = (make(**params) for _ in range(3))
    expected.fit(GOOD)
    loss = killed._loss

    def dying(networks, batch, step):
        if step.number == 3:
            raise RuntimeError("killed")
        return loss(networks, batch, step)

    killed._loss = dying
    with checkpoints(tmp_path, every=2):
        with pytest.raises(RuntimeError, match="killed"):
            killed.fit(GOOD)
        resumed.fit(GOOD)
    for name, values in expected.networks_.items():
        assert digest(values) == digest(resumed.networks_[name])
    for name, losses in expected.history_.items():
        np.testing.assert_array_equal(losses, resumed.history_[name])


def test_masks_that_do_not_fit_are_refused(make, mask):
    with pytest.raises(ValueError, match="masks has 2 entries and X 15 samples"):
        make().fit(X, Y, masks=[mask, None])
    with pytest.raises(ValueError, match=r"masks\[12\] must hold booleans"):
        make().fit(X, Y, masks=masks_of(mask.astype(np.uint8)))
    with pytest.raises(ImageFormatError, match=r"masks\[12\] has shape"):
        make().fit(X, Y, masks=masks_of(mask[:20]))
    with pytest.raises(ValueError, match=r"masks\[0\] marks defective pixels"):
        make().fit(X, Y, masks=[mask] + [None] * 14)
    tiles = TilingTransformer(tile=32, stride=32).fit_transform(X)
    with pytest.raises(ValueError, match="cut into tiles"):
        make().fit(tiles, Y, masks=masks_of(mask))


def test_known_defects_in_tiles_are_left_out(make):
    tiles = TilingTransformer(tile=32, stride=32).fit_transform(X)
    assert make(max_steps=1).fit(tiles, Y).n_defects_ == 0


def test_masks_reach_the_detector_in_a_pipeline(make, mask):
    direct = make(max_steps=3).fit(X, Y, masks=masks_of(mask))
    line = make_pipeline(ImageFormatNormalizer(), make(max_steps=3))
    line.fit(X, Y, supersimplenetdetector__masks=masks_of(mask))
    np.testing.assert_array_equal(line.score_samples(X), direct.score_samples(X))


def test_interpolation_keeps_constants_and_centers():
    for n, factor in ((5, 1), (4, 2), (1, 3)):
        weights = resampling(n, factor)
        assert weights.shape == (n * factor, n)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(weights, weights[::-1, ::-1])
    middle = resampling(6, 2) @ ((np.arange(6) + 0.5) / 6)
    np.testing.assert_allclose(middle[2:-2], ((np.arange(12) + 0.5) / 12)[2:-2], rtol=1e-6)


def test_a_mask_marks_each_position_that_shows_some_of_it():
    grids = PatchGrids(
        np.zeros((16, 1), np.float32), [(4, 4)], image_sizes=[(40, 60)], boxes=[(0, 20, 40, 40)]
    )
    mask = np.zeros((40, 60), dtype=bool)
    mask[11, 41] = mask[39, 0] = True  # the second is outside of what the grid covers
    cells = _defective_cells(mask, grids, 0)
    assert cells.dtype == np.int8 and cells.sum() == 1 and cells[1, 2] == 1
    assert (_defective_cells(None, grids, 0) == -1).all()


def test_the_score_head_does_not_see_what_lies_outside_the_region(make, mask):
    roi = np.zeros(X.shape[1:3], dtype=bool)
    roi[:, 20:48] = True
    detector = make(max_steps=4).fit(X, Y, masks=masks_of(mask), roi_mask=roi)
    networks = detector._ready_networks("cpu")
    sample = tuple(
        torch.from_numpy(np.array(one)[None]) for one in detector._prepare([X[13]]).samples[0]
    )
    features, inside = sample[0].float(), sample[1]
    changed = torch.where(inside[..., None] > 0, features, features + 5.0)
    with torch.inference_mode():
        adapted, other = networks["adaptor"](features), networks["adaptor"](changed)
        heat = torch.zeros(inside.shape)
        scores = [networks["score_head"](one, heat, inside) for one in (adapted, other)]
    assert torch.equal(*scores)


def test_defects_without_masks_leave_the_map_as_it_is(make):
    known, alone = make(max_steps=4).fit(X, Y), make(max_steps=4).fit(GOOD)
    for name in ("adaptor", "map_head"):
        assert digest(known.networks_[name]) == digest(alone.networks_[name])


def test_map_and_score_head_count_by_what_they_vary_among_held_out_images(make, mask):
    detector = make(max_steps=4).fit(X, Y, masks=masks_of(mask))
    judged = [detector._judge(*detector._prepare([image])[:2])[1][0] for image in X]
    parts = np.array([(heat.max(), own) for heat, own in judged], dtype=np.float64)
    of_map, of_head = parts[:12][detector.held_out_].std(axis=0)
    expected = parts[:, 0] + of_map / of_head * parts[:, 1]
    np.testing.assert_allclose(-detector.score_samples(X), expected, rtol=1e-9)


def test_a_cold_start_forgets_the_score_head(make):
    detector = make(max_steps=2).fit(X, Y)
    detector.fit(GOOD)
    expected = clone(detector).fit(GOOD)
    np.testing.assert_array_equal(detector.score_samples(X), expected.score_samples(X))
    detector.set_params(warm_start=True, random_state=1).fit(X, Y)  # gets a new one
    assert detector.n_defects_ == 3
    with pytest.raises(ValueError, match="learned from known defects"):
        detector.fit(np.concatenate([GOOD, make_check_images(2, random_state=5)]))


# ---- calibrators ------------------------------------------------------------------------
def test_calibrators_hand_known_defects_on_and_put_thresholds_on_good_images(make, mask):
    masks = masks_of(mask)
    alone = make(max_steps=2).fit(X, Y, masks=masks)
    calibrator = ThresholdCalibrator(make(max_steps=2), quantile=0.5)
    calibrator.fit(X, Y, masks=masks)
    inside = calibrator.estimator_
    assert inside.n_defects_ == 3
    np.testing.assert_array_equal(inside.score_samples(X), alone.score_samples(X))
    held_out = np.sort(inside.training_scores_[inside.held_out_])
    np.testing.assert_array_equal(np.sort(calibrator.calibration_scores_), held_out)
    pixels = PixelThresholdCalibrator(make(max_steps=2), quantile=0.5).fit(X, Y, masks=masks)
    assert pixels.estimator_.n_defects_ == 3 and len(pixels.region_scores_) == len(held_out)


@pytest.mark.parametrize("kind", [ThresholdCalibrator, PixelThresholdCalibrator])
def test_each_fold_learns_from_all_known_defects(make, mask, kind):
    order = np.random.default_rng(0).permutation(len(X))
    masks = [masks_of(mask)[i] for i in order]
    seen = []

    class Watching(SuperSimpleNetDetector):
        _registry_name = None

        def _fit(self, stream):
            seen.append((stream.n_samples, len(self._known_defects[1])))
            assert sum(m is not None for m in self._known_defects[1]) == 2
            return super()._fit(stream)

    watching = Watching(**make(max_steps=1).get_params(deep=False))
    kind(watching, cv=KFold(2), quantile=0.5).fit(X[order], Y[order], masks=masks)
    assert seen == [(12, 3), (6, 3), (6, 3)]


def test_cross_validation_cuts_masks_like_images(make, mask):
    found = cross_validate(
        make(max_steps=1),
        X,
        Y,
        cv=StratifiedKFold(3),
        scoring="roc_auc",
        params={"masks": masks_of(mask)},
        return_estimator=True,
    )
    assert [one.n_defects_ for one in found["estimator"]] == [2, 2, 2]
    assert np.isfinite(found["test_score"]).all()
