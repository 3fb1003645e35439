"""From maps to regions: each option by a case worked out by hand, and what holds for any map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyimgano.defects import DefectExtractor
from pyimgano.defects import _steps as steps

# Integers, so that sums are exact.
MAPS = arrays(np.float32, (7, 9), elements=st.integers(0, 6).map(float))


def extractor(threshold=1.0, base=0.0, **params):
    """An extractor whose threshold was set by hand."""
    made = DefectExtractor(**params)
    roi = params.get("roi")
    size = roi.shape if isinstance(roi, np.ndarray) else (8, 8)
    made._fit_base([np.full(size, base, np.float32)])
    made.threshold_ = threshold
    return made


def drawn(*rows, **values):
    """A map from a drawing: ``#`` is 2, a dot is 0, a digit is itself."""
    known = {".": 0.0, "#": 2.0, **values}
    return np.array([[known.get(c) if c in known else float(c) for c in row] for row in rows])


def boxes(regions):
    return [region.bbox_xyxy for region in regions]


# ---- the threshold and the region -----------------------------------------------------
def test_a_pixel_at_the_threshold_is_good_and_boxes_end_before_their_last_number():
    heat = drawn(
        "....",
        ".12.",
        ".22.",
        "....",
    )
    (region,) = extractor().extract(heat)
    assert region.id == 1
    assert region.bbox_xyxy == (1, 1, 3, 3)
    assert region.area == 3
    assert region.centroid == pytest.approx((5 / 3, 5 / 3))
    assert (region.score_max, region.score_mean) == (2.0, 2.0)
    assert region.fill_ratio == 3 / 4
    np.testing.assert_array_equal(region.mask, [[0, 1], [1, 1]])
    assert extractor(2.0).extract(heat) == []
    assert extractor(0.5).extract(heat)[0].score_mean == 7 / 4


def test_pixels_that_touch_at_a_corner_are_one_region():
    heat = drawn(
        "#...#",
        ".#.#.",
        ".....",
        "#....",
    )
    assert [(r.area, r.bbox_xyxy) for r in extractor().extract(heat)] == [
        (2, (0, 0, 2, 2)),
        (2, (3, 0, 5, 2)),
        (1, (0, 3, 1, 4)),
    ]


def test_thresholds_between_two_float32_are_told_apart():
    one, above = np.float32(1.0), np.nextafter(np.float32(1.0), np.float32(2.0))
    heat = np.array([[one, above]])
    assert steps.above(heat, 1.0).tolist() == [[False, True]]
    assert steps.above(heat, np.nextafter(1.0, 0.0)).tolist() == [[True, True]]
    assert steps.above(heat, np.nextafter(1.0, 2.0)).tolist() == [[False, True]]
    assert steps.above(heat, float(above)).tolist() == [[False, False]]


def test_no_pixel_no_region():
    assert extractor(opening=3, merge_nearby=2).transform(np.zeros((2, 5, 5))) == [[], []]


# ---- 1 and 2: what is looked at -------------------------------------------------------
@pytest.mark.parametrize(
    ("roi", "columns"),
    [
        ((0.2, 0, 0.6, 1), range(2, 6)),
        ((0.25, 0, 0.55, 1), range(2, 5)),  # the center of column 2 is at 0.25, of 5 at 0.55
        ((0.26, 0, 0.56, 1), range(3, 6)),
        ([(0.25, 0), (0.55, 0), (0.55, 1), (0.25, 1)], range(2, 6)),  # an outline is inside
        (np.tile([False, True, True, False, False], (2, 2)), [1, 2, 6, 7]),
    ],
)
def test_bounds_of_the_region_of_interest(roi, columns):
    regions = extractor(roi=roi).extract(np.full((2, 10), 2.0))
    found = [x for x0, _, x1, _ in sorted(boxes(regions)) for x in range(x0, x1)]
    assert found == list(columns)


def test_the_region_of_interest_comes_before_smoothing_closing_and_filling():
    heat = np.zeros((5, 6))
    heat[:, 0] = 90.0
    roi = (1 / 6, 0, 1, 1)
    assert extractor(map_smoothing=("box", 3)).extract(heat)
    assert extractor(map_smoothing=("box", 3), roi=roi).extract(heat) == []
    ring = drawn("#####", "#.#.#", "#####")
    mask = np.ones((3, 5), dtype=bool)
    mask[1, 1] = False
    for option in ({"fill_holes": True}, {"closing": 3}):
        (region,) = extractor(roi=mask, **option).extract(ring)
        assert region.area == 14  # the hole outside stays


def test_what_lies_outside_has_the_value_of_the_nearest_pixel_inside():
    heat = np.array([[9.0, 3.0, 0.0, 0.0]])
    made = extractor(0.9, map_smoothing=("box", 3), roi=(0.25, 0, 1, 1))
    (region,) = made.extract(heat)  # (3 + 3 + 0) / 3 = 2, (3 + 0 + 0) / 3 = 1, 0
    assert region.bbox_xyxy == (1, 0, 3, 1)
    assert (region.score_max, region.score_mean) == (2.0, 1.5)


def test_border_pixels_are_left_out():
    heat = np.full((6, 7), 2.0)
    assert boxes(extractor(border_ignore_px=2).extract(heat)) == [(2, 2, 5, 4)]
    with pytest.raises(ValueError, match="border_ignore_px=3 leaves nothing of a map of 6 x 7"):
        extractor(border_ignore_px=3).extract(heat)
    with pytest.raises(ValueError, match="leaves nothing of the region of interest"):
        extractor(border_ignore_px=1, roi=(0, 0, 1 / 7, 1)).extract(heat)


# ---- 3: smoothing ---------------------------------------------------------------------
def test_windows_by_hand():
    heat = np.zeros((9, 9), np.float32)
    heat[4, 4] = 49.0
    assert steps.smooth(heat, "box", 7)[1:8, 1:8] == pytest.approx(1.0)
    assert steps.smooth(heat, "box", 7)[0, 4] == 0.0
    assert steps.smooth(heat, "median", 3).max() == 0.0
    gauss = steps.smooth(heat, "gaussian", 3)  # sigma 0.8
    weights = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * 0.8**2))
    weights /= weights.sum()
    np.testing.assert_allclose(gauss[3:6, 3:6], 49 * np.outer(weights, weights), rtol=1e-4)
    assert gauss.sum() == pytest.approx(49.0)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
def test_medians_of_any_odd_size_are_medians(size):
    heat = np.random.RandomState(0).normal(size=(9, 11)).astype(np.float32)
    half = size // 2
    padded = np.pad(heat, half, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    expected = np.median(windows, axis=(2, 3))
    np.testing.assert_array_equal(steps.smooth(heat, "median", size), expected)


# ---- 5: hysteresis --------------------------------------------------------------------
def test_hysteresis_grows_from_high_pixels_through_corners():
    heat = drawn(
        "8..6.",
        ".6...",
        "..6..",
        ".....",
        "66..5",
    )
    made = extractor(7.0, base=-3.0, hysteresis=(0.85, 1))  # the low level is -3 + 0.85 * 10 = 5.5
    (region,) = made.extract(heat)
    assert (region.area, region.bbox_xyxy) == (3, (0, 0, 3, 3))
    made = extractor(7.0, base=-3.0, hysteresis=(0.85, 1.2))  # the high level is 9
    assert made.extract(heat) == []
    with pytest.raises(ValueError, match="not above base_=9"):
        extractor(7.0, base=9.0, hysteresis=(0.5, 1)).extract(heat)


# ---- 6 to 8: morphology ---------------------------------------------------------------
def test_opening_comes_before_closing():
    heat = drawn(
        "........",
        ".###.#..",
        ".###....",
        ".###....",
        "........",
    )
    (region,) = extractor(opening=3, closing=3).extract(heat)
    assert region.area == 9  # the single pixel is gone before the gap could be closed
    (region,) = extractor(closing=3).extract(heat)
    assert region.area == 11
    (region,) = extractor(opening=3).extract(heat[1:4, 1:])
    assert region.area == 9  # a square at the border fits
    assert extractor(opening=3).extract(heat[1:4, 2:]) == []


def test_closing_and_filling():
    heat = drawn(
        "####",
        "#..#",
        "####",
    )
    assert extractor(closing=3).extract(heat)[0].area == 12
    corner_open = drawn(
        "###.",
        "#.#.",
        "##..",
    )
    (region,) = extractor(fill_holes=True).extract(corner_open)
    assert region.area == 8  # the hole touches the outside at a corner only
    side_open = drawn(
        "###",
        "#.#",
        "#.#",
    )
    assert extractor(fill_holes=True).extract(side_open)[0].area == 7


# ---- 9 to 12: filters -----------------------------------------------------------------
def test_fragments_are_joined_before_small_ones_are_dropped():
    heat = drawn(
        "##.##....#",
        "..........",
        "....#.....",
    )
    assert boxes(extractor(min_area=3).extract(heat)) == []
    assert boxes(extractor(merge_nearby=0).extract(heat)) == boxes(extractor().extract(heat))
    (region,) = extractor(min_area=5, merge_nearby=1).extract(heat)
    assert (region.area, region.bbox_xyxy) == (5, (0, 0, 5, 3))
    assert boxes(extractor(min_area=6, merge_nearby=3).extract(heat)) == []
    (region,) = extractor(min_area=6, merge_nearby=4).extract(heat)  # 4 columns between 4 and 9
    assert region.bbox_xyxy == (0, 0, 10, 3)


def test_a_region_of_the_least_area_is_kept():
    heat = drawn("##.###")
    assert [r.area for r in extractor(min_area=2).extract(heat)] == [3, 2]
    assert [r.area for r in extractor(min_area=3).extract(heat)] == [3]
    assert extractor(min_area=4).extract(heat) == []


def test_scores_are_filtered_by_levels():
    heat = drawn("45.33.6")  # base 1, threshold 2: values 4 and 5 are levels 3 and 4
    areas = [r.area for r in extractor(2.0, base=1.0).extract(heat)]
    assert areas == [1, 2, 2]
    for filters, kept in (
        ({"min_score_max": 4.0}, [6.0, 5.0]),
        ({"min_score_max": 4.01}, [6.0]),
        ({"min_score_mean": 3.5}, [6.0, 5.0]),
        ({"min_score_mean": 3.51}, [6.0]),
    ):
        made = extractor(2.0, base=1.0, score_filters=filters)
        assert [r.score_max for r in made.extract(heat)] == kept


SHAPES = {  # aspect ratio, solidity, compactness, fill ratio
    "line": (drawn("#####"), 5.0, 1.0, 16 * 5 / 12**2, 1.0),
    "diagonal": (np.diag([2.0] * 4), 4.0, 1.0, 16 * 4 / 16**2, 0.25),
    "square": (drawn("###", "###", "###"), 1.0, 1.0, 1.0, 1.0),
    "pixel": (drawn("#"), 1.0, 1.0, 1.0, 1.0),
    "corner": (drawn("#..", "#..", "###"), 1.0, 5 / 6, 16 * 5 / 12**2, 5 / 9),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_by_hand(name):
    heat, aspect_ratio, solidity, compactness, fill_ratio = SHAPES[name]
    (region,) = extractor().extract(heat)
    assert region.aspect_ratio == aspect_ratio
    assert region.solidity == pytest.approx(solidity)
    assert region.compactness == compactness
    assert region.fill_ratio == fill_ratio
    for key, value, step in (
        ("max_aspect_ratio", aspect_ratio, -1),
        ("min_solidity", region.solidity, 1),
        ("min_compactness", compactness, 1),
        ("min_fill_ratio", fill_ratio, 1),
    ):
        assert extractor(shape_filters={key: value}).extract(heat)  # just the limit is kept
        beyond = np.nextafter(value, step * np.inf)
        assert extractor(shape_filters={key: beyond}).extract(heat) == []


# ---- 13 and 14: order -----------------------------------------------------------------
def test_order_by_score_then_area_then_position():
    heat = drawn(
        ".2.33.2",
        ".......",
        "2.22..2",
    )
    regions = extractor().extract(heat)
    assert [r.id for r in regions] == [1, 2, 3, 4, 5, 6]
    assert boxes(regions) == [
        (3, 0, 5, 1),  # the highest
        (2, 2, 4, 3),  # the largest of the others
        (1, 0, 2, 1),
        (6, 0, 7, 1),
        (0, 2, 1, 3),
        (6, 2, 7, 3),
    ]


def test_the_largest_regions_are_kept_by_the_key_and_equal_ones_by_their_order():
    heat = drawn("5.33.33.224")
    kept = extractor(max_regions=2).extract(heat)
    assert [(r.id, r.score_max) for r in kept] == [(1, 5.0), (2, 4.0)]
    kept = extractor(max_regions=2, max_regions_key="area").extract(heat)
    assert boxes(kept) == [(8, 0, 11, 1), (2, 0, 4, 1)]
    assert [r.id for r in kept] == [1, 2]
    kept = extractor(max_regions=2, max_regions_key="score_mean").extract(heat)
    assert boxes(kept) == [(0, 0, 1, 1), (2, 0, 4, 1)]


# ---- the image ------------------------------------------------------------------------
def test_regions_in_pixels_of_the_image():
    heat = np.zeros((4, 6))
    heat[1:3, 1] = 2.0
    (region,) = extractor().extract(heat, image_size=(6, 15))  # 1.5 times as high, 2.5 as wide
    assert region.image_bbox_xyxy == (2, 1, 5, 5)  # 2.5 to 5, 1.5 to 4.5
    assert region.image_area == 2 * 1.5 * 2.5
    assert region.image_centroid == (1.5 * 2.5 - 0.5, 2.0 * 1.5 - 0.5)
    (region,) = extractor().extract(heat, image_size=(4, 6))
    assert region.image_bbox_xyxy is None
    assert "image_area" not in region.to_dict()


# ---- thresholds -----------------------------------------------------------------------
def test_the_threshold_is_a_rank_of_the_pixels_inside():
    good = np.arange(100.0).reshape(2, 5, 10) - 50.0
    assert DefectExtractor(pixel_quantile=0.9).fit(good).threshold_ == 39.0  # 10 are above
    assert DefectExtractor(pixel_quantile=0.901).fit(good).threshold_ == 40.0
    left = DefectExtractor(pixel_quantile=0.9, roi=(0, 0, 0.5, 1)).fit(good)
    assert left.threshold_ == 34.0  # of 50, 5 are above: 40 to 44
    assert left.base_ == np.median([-28.0, 22.0])
    fitted = DefectExtractor().fit(good)
    assert fitted.base_ == np.median([-26.0, 24.0])
    assert fitted.spread_ == np.median([-2.0, 48.0]) - fitted.base_


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.data())
@settings(max_examples=12, deadline=None)
def test_ranks_are_those_of_sorted_values(values, data):
    values = np.array(values, np.float32)
    rank = data.draw(st.integers(1, len(values)))
    parts = np.array_split(values, 3)
    assert steps.rank_value(lambda: iter(parts), rank) == np.sort(values)[rank - 1]


def test_region_scores_by_hand():
    heat = drawn(
        "95.4.",
        "..7..",
        ".....",
        "333..",
    )
    maps = heat[None]
    assert extractor().region_scores(maps) == [9.0]
    assert extractor(min_area=2).region_scores(maps) == [5.0]  # 9 and 5 touch, and so does 7
    assert extractor(min_area=4).region_scores(maps) == [4.0]
    assert extractor(opening=3).region_scores(maps) == [0.0]  # no region, or the whole map
    grown = extractor(min_area=3, hysteresis=(0.5, 1.0))
    assert grown.region_scores(maps) == pytest.approx([9.0], rel=2e-6)
    grown = extractor(min_area=4, hysteresis=(0.5, 1.0))  # 4 must be above half the threshold
    assert grown.region_scores(maps) == pytest.approx([8.0], rel=2e-6)
    strong = extractor(min_area=2, score_filters={"min_score_max": 2.0})
    assert strong.region_scores(maps) == pytest.approx([4.5], rel=2e-6)


MONOTONE = [
    {},
    {"min_area": 3},
    {"opening": 2},
    {"closing": 3, "min_area": 4},
    {"fill_holes": True, "merge_nearby": 1, "min_area": 5},
    {"roi": (0.2, 0.2, 0.9, 0.9), "map_smoothing": ("box", 3)},
]


@pytest.mark.parametrize("params", MONOTONE, ids=str)
@given(heat=MAPS)
@settings(max_examples=12, deadline=None)
def test_there_is_a_region_exactly_where_the_score_exceeds_the_threshold(params, heat):
    made = extractor(**params)
    (score,) = made.region_scores([heat])
    (prepared,) = made._prepared([heat])
    for threshold in np.unique(prepared.values):
        made.threshold_ = float(threshold)
        assert bool(made.extract(heat)) == (score > threshold)


@pytest.mark.parametrize(
    "params",
    [
        {"shape_filters": {"min_solidity": 0.9}},
        {"score_filters": {"min_score_mean": 1.2}, "min_area": 2},
        {"hysteresis": (0.5, 1.1), "min_area": 3},
    ],
    ids=str,
)
@given(heat=MAPS)
@settings(max_examples=15, deadline=None)
def test_above_its_score_a_map_has_no_region(params, heat):
    made = extractor(**params)
    made.spread_ = 0.5
    (score,) = made.region_scores([heat])
    for step in range(-1, 250, 5):
        made.threshold_ = max(score, 0.5 * 2.0 ** (step / 64))
        if made.threshold_ >= score:
            assert made.extract(heat) == []


# ---- what holds for any map -----------------------------------------------------------
OPTIONS = {
    "map_smoothing": ("median", 3),
    "hysteresis": (0.5, 1.0),
    "min_area": 2,
    "merge_nearby": 1,
    "score_filters": {"min_score_max": 1.25},
    "shape_filters": {"min_solidity": 0.5},
}


def without_scores(regions):
    return [(r.id, r.bbox_xyxy, r.area, r.centroid, r.solidity, r.aspect_ratio) for r in regions]


@given(heat=MAPS, power=st.integers(-4, 4), shift=st.integers(-8, 8))
@settings(max_examples=15, deadline=None)
def test_another_scale_of_the_map_changes_no_region(heat, power, shift):
    scale = 2.0**power
    before = extractor(2.0, base=0.0, **OPTIONS).extract(heat)
    moved = extractor(2.0 * scale + shift, base=float(shift), **OPTIONS)
    after = moved.extract(heat * np.float32(scale) + np.float32(shift))
    assert without_scores(after) == without_scores(before)
    assert [r.score_max for r in after] == [r.score_max * scale + shift for r in before]


@given(maps=arrays(np.float32, (5, 6, 6), elements=st.integers(0, 9).map(float)), data=st.data())
@settings(max_examples=8, deadline=None)
def test_the_order_of_images_does_not_matter(maps, data):
    order = data.draw(st.permutations(range(5)))
    one, other = DefectExtractor(min_area=2).fit(maps), DefectExtractor(min_area=2).fit(maps[order])
    assert (one.threshold_, one.base_, one.spread_) == (
        other.threshold_,
        other.base_,
        other.spread_,
    )
    found = extractor(4.0, **OPTIONS).transform(maps)
    assert extractor(4.0, **OPTIONS).transform(maps[order]) == [found[i] for i in order]


@given(heat=MAPS, area=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_a_larger_least_area_only_drops_regions(heat, area):
    more = boxes(extractor(3.0, min_area=area).extract(heat))
    fewer = boxes(extractor(3.0, min_area=area + 1).extract(heat))
    assert [box for box in more if box in fewer] == fewer
    assert all(r.area > area for r in extractor(3.0, min_area=area + 1).extract(heat))


# ---- errors ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"roi": (0, 0, 40, 40)}, "not within 0 and 1"),
        ({"roi": (0.5, 0, 0.5, 1)}, "must have x0 < x1"),
        ({"roi": [(0, 0), (1, 1)]}, "at least 3 corners"),
        ({"roi": np.zeros((5, 5), bool)}, "False everywhere"),
        ({"roi": np.ones((4, 5), bool)}, "roi has 4 x 5 pixels, and the image 5 x 5"),
        ({"roi": (0, 0, 0.05, 1)}, "no pixel of an image of 5 x 5"),
        ({"map_smoothing": ("median", 4)}, "an odd number of pixels"),
        ({"map_smoothing": ("bilateral", 3)}, "box, gaussian, median"),
        ({"hysteresis": (1.0, 0.5)}, "0 < low <= high"),
        ({"score_filters": {"min_area": 3}}, "score_filters has no filter 'min_area'"),
        ({"shape_filters": {"min_solidity": np.nan}}, "must be a finite number"),
        ({"min_area": 0}, "min_area"),
        ({"max_regions_key": "x"}, "max_regions_key"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, message):
    with pytest.raises(ValueError, match=message):
        DefectExtractor(**params).fit(np.random.RandomState(0).uniform(size=(2, 5, 5)))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((5, 5)), r"got shape \(5, 5\). For one map, give \[map\]"),
        ([], "holds no maps"),
        (np.full((2, 3, 3), np.nan), "map 0 holds NaN"),
        ([np.zeros((3, 3)), np.zeros(3)], r"map 1 has shape \(3,\)"),
        ([np.zeros((3, 3), complex)], "dtype complex128"),
    ],
)
def test_what_is_no_map_is_refused_by_its_place(maps, message):
    with pytest.raises(ValueError, match=message):
        DefectExtractor().fit(maps)


def test_parameters_count_as_they_were_in_fit():
    made = DefectExtractor().fit(np.zeros((1, 4, 4)))
    made.min_area = 5
    with pytest.warns(UserWarning, match="min_area"):
        assert len(made.extract(drawn("#..."))) == 1
