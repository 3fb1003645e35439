"""Regions as outlines, masks, tables and annotations."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from pyimgano.defects import (
    DefectExtractor,
    from_rle,
    to_coco,
    to_labelme,
    to_mask,
    to_pandas,
    to_rle,
    write_mask,
)
from pyimgano.defects._outline import outlines

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.booleans())


def regions_of(*maps, **params):
    return DefectExtractor(**params).fit(np.zeros((1, 4, 4))).transform(maps)


RING = np.array(
    [
        [0, 3, 3, 3, 0],
        [0, 3, 0, 3, 0],
        [0, 3, 3, 3, 0],
        [2, 0, 0, 0, 0],
    ]
)
(RING_AND_TAIL,) = regions_of(RING)
(APART,) = regions_of(np.array([[3, 0, 2], [0, 0, 2]]))


def area(ring):
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def test_outlines_by_hand():
    (region,) = RING_AND_TAIL  # the tail touches the ring at a corner
    (ring,) = region.contour()
    assert ring.tolist() == [[1, 0], [4, 0], [4, 3], [1, 3], [1, 4], [0, 4], [0, 3], [1, 3]]


@given(MASKS)
@settings(max_examples=100, deadline=None)
def test_outlines_have_the_area_of_the_filled_parts(mask):
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    filled = [int(ndimage.binary_fill_holes(labels == i).sum()) for i in range(1, n + 1)]
    assert sorted(map(area, outlines(mask))) == sorted(filled)


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_run_lengths_lead_back_to_the_mask(mask):
    rle = json.loads(json.dumps(to_rle(mask)))
    assert rle["size"] == list(mask.shape)
    assert all(count > 0 for count in rle["counts"][1:])
    np.testing.assert_array_equal(from_rle(rle), mask)


def test_run_lengths_by_hand():
    # Column by column, the first run outside.
    assert to_rle([[0, 1, 1], [0, 0, 1]]) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    assert to_rle([[1, 0]])["counts"] == [0, 1, 1]
    with pytest.raises(ValueError, match="add up to 2 x 3"):
        from_rle({"size": [2, 3], "counts": [2, 1]})


def test_masks_in_files(tmp_path):
    write_mask(tmp_path / "mask.png", APART, (2, 3))
    write_mask(tmp_path / "ids.png", APART, (2, 3), ids=True)
    write_mask(tmp_path / "none.png", [], (2, 3))
    read = [
        cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        for name in ("mask.png", "ids.png", "none.png")
    ]
    assert [one.dtype for one in read] == [np.uint8, np.uint16, np.uint8]
    assert read[0].tolist() == [[255, 0, 255], [0, 0, 255]]
    assert read[1].tolist() == [[1, 0, 2], [0, 0, 2]]
    assert not read[2].any()
    with pytest.raises(ValueError, match=r"region 2 has .* beyond size=\(2, 2\)"):
        to_mask(APART, (2, 2))


def test_labelme():
    (joined,) = regions_of(np.array([[3, 0, 2], [0, 0, 2]]), merge_nearby=1)
    found = json.loads(json.dumps(to_labelme(joined, (2, 3), "part.png", label="scratch")))
    assert (found["imagePath"], found["imageHeight"], found["imageWidth"]) == ("part.png", 2, 3)
    assert [shape["points"] for shape in found["shapes"]] == [
        [[0, 0], [1, 0], [1, 1], [0, 1]],
        [[2, 0], [3, 0], [3, 2], [2, 2]],
    ]
    assert {(s["group_id"], s["label"], s["shape_type"]) for s in found["shapes"]} == {
        (1, "scratch", "polygon")
    }


def test_coco():
    results, sizes = [APART, [], RING_AND_TAIL], [(2, 3), (5, 5), (4, 5)]
    names = ["a.png", "b.png", "c.png"]
    found = json.loads(json.dumps(to_coco(results, sizes, names)))
    assert found["images"][2] == {"id": 3, "file_name": "c.png", "height": 4, "width": 5}
    about = [(a["id"], a["image_id"], a["bbox"], a["area"]) for a in found["annotations"]]
    assert about == [(1, 1, [0, 0, 1, 1], 1), (2, 1, [2, 0, 1, 2], 2), (3, 3, [0, 0, 4, 4], 9)]
    assert found["annotations"][1]["segmentation"] == [[2, 0, 3, 0, 3, 2, 2, 2]]
    runs = to_coco(results, sizes, names, rle=True)["annotations"][2]["segmentation"]
    np.testing.assert_array_equal(from_rle(runs), RING > 0)
    with pytest.raises(ValueError, match="3 images, 1 sizes and 3 names"):
        to_coco(results, sizes[:1], names)


def test_regions_as_plain_types():
    region = APART[1]
    found = json.loads(json.dumps(region.to_dict(contour=True)))
    assert found["bbox_xyxy"] == [2, 0, 3, 2]
    assert found["contour"] == [[[2, 0], [3, 0], [3, 2], [2, 2]]]
    assert "mask" not in found and "contour" not in region.to_dict()
    assert {type(value) for value in region.to_dict().values()} <= {int, float, list}


def test_a_table_of_regions():
    pytest.importorskip("pandas", reason="pandas is not installed")
    table = to_pandas([APART, [], RING_AND_TAIL], ["a.png", "b.png", "c.png"])
    assert table["image"].tolist() == ["a.png", "a.png", "c.png"]
    assert table[["x0", "y0", "x1", "y1", "area"]].to_numpy().tolist() == [
        [0, 0, 1, 1, 1],
        [2, 0, 3, 2, 2],
        [0, 0, 4, 4, 9],
    ]
    assert "image_x0" not in table
    empty = to_pandas([[], []])
    assert len(empty) == 0 and list(empty) == list(table)
    extractor = DefectExtractor().fit(np.zeros((1, 4, 4)))
    scaled = extractor.extract(RING, image_size=(8, 10))
    assert to_pandas([scaled])["image_x1"].tolist() == [8]
    with pytest.raises(ValueError, match="2 names for the regions of 1 images"):
        to_pandas([[]], ["a", "b"])
