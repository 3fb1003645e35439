"""Exact nearest neighbors: against scipy in float64, and free of the batch."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from pyimgano._kernels import neighbors as _neighbors
from pyimgano._kernels.neighbors import NearestNeighbors


@pytest.fixture(autouse=True, scope="module", params=["as in use", "always sketched"])
def sketched(request):
    """Everything holds whatever the bounds come from, also for rows of four numbers."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "always sketched":
            patch.setattr(_neighbors, "_SKETCH", 3)
            patch.setattr(_neighbors, "_WIDE", 4)
            patch.setattr(_neighbors, "_LARGE", 1)
            patch.setattr(_neighbors, "_LEAF", 5)
        yield


def _reference(
    rows: np.ndarray, bank: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All distances in float64, stable sort: ties in ascending order of index."""
    full = cdist(rows.astype(np.float64), bank.astype(np.float64))
    if allowed is not None:
        full[~allowed] = np.inf
    last = min(k, len(bank)) - 1
    farthest = np.partition(full, last, axis=1)[:, last, None]
    order = np.empty((len(rows), last + 1), np.int64)
    for own, distances, near in zip(order, full, full <= farthest):
        candidates = np.flatnonzero(near)
        own[:] = candidates[np.argsort(distances[candidates], kind="stable")[: last + 1]]
    distance = np.take_along_axis(full, order, axis=1)
    order = np.where(np.isinf(distance), -1, order)
    pad = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(distance, pad, constant_values=np.inf),
        np.pad(order, pad, constant_values=-1),
    )


@pytest.mark.parametrize("d", [1, 2, 3, 16, 17, 130])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_equals_float64_reference(d: int, k: int) -> None:
    rng = np.random.default_rng(d)
    bank = rng.standard_normal((2500, d)).astype(np.float32)
    rows = rng.standard_normal((530, d)).astype(np.float32)
    distance, index = NearestNeighbors(bank).query(rows, k=k)
    expected, expected_index = _reference(rows, bank, k)
    assert distance.dtype == np.float64
    assert index.dtype == np.int64
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    np.testing.assert_array_equal(index, expected_index)


def test_far_from_the_origin() -> None:
    # At 1e4 a float32 has steps of 1e-3: |c|^2 - 2 q.c alone would be all noise.
    rng = np.random.default_rng(0)
    bank = (1e4 + 0.02 * rng.standard_normal((700, 40))).astype(np.float32)
    rows = (1e4 + 0.02 * rng.standard_normal((50, 40))).astype(np.float32)
    distance, index = NearestNeighbors(bank).query(rows, k=2)
    expected, expected_index = _reference(rows, bank, 2)
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    np.testing.assert_array_equal(index, expected_index)


@pytest.mark.parametrize("scale", [1e-25, 1e-20, 1e-10, 1e10, 1e15])
def test_any_scale(scale: float) -> None:
    rng = np.random.default_rng(1)
    bank = (scale * rng.standard_normal((60, 5))).astype(np.float32)
    rows = (scale * rng.standard_normal((20, 5))).astype(np.float32)
    distance, index = NearestNeighbors(bank).query(rows, k=3)
    expected, expected_index = _reference(rows, bank, 3)
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    np.testing.assert_array_equal(index, expected_index)


def test_one_outlier_does_not_spoil_the_others() -> None:
    rng = np.random.default_rng(2)
    bank = rng.standard_normal((300, 8)).astype(np.float32)
    bank[17] = 1e12
    rows = np.vstack([rng.standard_normal((30, 8)), np.full((1, 8), -1e12)]).astype(np.float32)
    distance, index = NearestNeighbors(bank).query(rows)
    expected, expected_index = _reference(rows, bank, 1)
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    # 1e12 away, float64 itself cannot tell the near rows apart; all others must agree.
    np.testing.assert_array_equal(index[:-1], expected_index[:-1])


def test_duplicates_give_the_lowest_index() -> None:
    base = np.random.default_rng(3).standard_normal((5, 7)).astype(np.float32)
    bank = np.tile(base, (900, 1))  # spans several blocks
    distance, index = NearestNeighbors(bank).query(base, k=3)
    np.testing.assert_array_equal(distance, np.zeros((5, 3)))
    np.testing.assert_array_equal(index, np.arange(5)[:, None] + [0, 5, 10])


def test_bank_sorted_from_far_to_near() -> None:
    bank = np.arange(5000, 0, -1, dtype=np.float32)[:, None]
    distance, index = NearestNeighbors(bank).query(np.zeros((1, 1)), k=2)
    np.testing.assert_array_equal(distance, [[1.0, 2.0]])
    np.testing.assert_array_equal(index, [[4999, 4998]])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    m=st.integers(1, 60),
    d=st.integers(1, 20),
    k=st.integers(1, 4),
    coarse=st.booleans(),
    data=st.data(),
)
def test_a_row_does_not_depend_on_its_batch(
    seed: int, n: int, m: int, d: int, k: int, coarse: bool, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    bank, rows = rng.standard_normal((m, d)), rng.standard_normal((n, d))
    if coarse:  # many ties
        bank, rows = np.round(bank), np.round(rows)
    group = rng.integers(0, 3, m)
    exclude = rng.integers(-1, 3, n)
    search = NearestNeighbors(bank, bank_group=group)
    distance, index = search.query(rows, k=k, exclude=exclude)
    cuts = sorted(data.draw(st.sets(st.integers(0, n), max_size=4)) | {0, n})
    for start, stop in zip(cuts, cuts[1:]):
        some, some_index = search.query(rows[start:stop], k=k, exclude=exclude[start:stop])
        assert some.tobytes() == distance[start:stop].tobytes()
        np.testing.assert_array_equal(some_index, index[start:stop])
    allowed = group[None, :] != exclude[:, None]
    expected, expected_index = _reference(
        rows.astype(np.float32), bank.astype(np.float32), k, allowed
    )
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    if coarse:  # exact sums: ties are ties for scipy too
        np.testing.assert_array_equal(index, expected_index)


def test_large_batches_equal_single_rows() -> None:
    rng = np.random.default_rng(4)
    bank = rng.standard_normal((4100, 64)).astype(np.float32)
    rows = rng.standard_normal((1030, 64)).astype(np.float32)
    search = NearestNeighbors(bank)
    distance, index = search.query(rows)
    for i in (0, 511, 512, 1029):
        one, one_index = search.query(rows[i : i + 1])
        assert one.tobytes() == distance[i : i + 1].tobytes()
        assert one_index[0, 0] == index[i, 0]


def test_exclude_skips_the_group() -> None:
    bank = np.array([[0.0], [1.0], [2.0], [5.0]])
    search = NearestNeighbors(bank, bank_group=[0, 0, 1, 2])
    distance, index = search.query(np.zeros((4, 1)), exclude=[-1, 0, 1, 7])
    np.testing.assert_array_equal(distance[:, 0], [0.0, 2.0, 0.0, 0.0])
    np.testing.assert_array_equal(index[:, 0], [0, 2, 0, 0])


def test_too_few_rows_left() -> None:
    search = NearestNeighbors(np.array([[0.0], [1.0], [4.0]]), bank_group=[0, 0, 1])
    distance, index = search.query(np.zeros((2, 1)), k=4, exclude=[-1, 0])
    np.testing.assert_array_equal(distance, [[0, 1, 4, np.inf], [4, np.inf, np.inf, np.inf]])
    np.testing.assert_array_equal(index, [[0, 1, 2, -1], [2, -1, -1, -1]])
    everything = NearestNeighbors(np.zeros((3, 2)), bank_group=[5, 5, 5])
    distance, index = everything.query(np.zeros((1, 2)), exclude=[5])
    assert distance[0, 0] == np.inf
    assert index[0, 0] == -1


def test_empty_bank_and_empty_query() -> None:
    distance, index = NearestNeighbors(np.empty((0, 3))).query(np.zeros((2, 3)), k=2)
    assert np.all(np.isinf(distance))
    assert np.all(index == -1)
    distance, index = NearestNeighbors(np.zeros((4, 3))).query(np.empty((0, 3)), k=2)
    assert distance.shape == index.shape == (0, 2)


def test_pickle_keeps_every_bit() -> None:
    rng = np.random.default_rng(5)
    search = NearestNeighbors(rng.standard_normal((90, 6)), bank_group=np.arange(90) % 4)
    rows, exclude = rng.standard_normal((20, 6)), np.arange(20) % 5 - 1
    before = search.query(rows, k=2, exclude=exclude)
    after = pickle.loads(pickle.dumps(search)).query(rows, k=2, exclude=exclude)
    assert before[0].tobytes() == after[0].tobytes()
    assert before[1].tobytes() == after[1].tobytes()


def test_read_only_memory_map(tmp_path: Path) -> None:
    bank = np.random.default_rng(6).standard_normal((50, 4)).astype(np.float32)
    np.save(tmp_path / "bank.npy", bank)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    search = NearestNeighbors(mapped)
    assert np.shares_memory(search.bank, mapped)
    distance, index = search.query(mapped)
    np.testing.assert_array_equal(distance, np.zeros((50, 1)))
    np.testing.assert_array_equal(index[:, 0], np.arange(50))


def test_inputs_are_left_alone() -> None:
    rng = np.random.default_rng(7)
    bank, rows = (rng.standard_normal((30, 4)).astype(np.float32) for _ in range(2))
    copies = bank.copy(), rows.copy()
    NearestNeighbors(bank).query(rows)
    np.testing.assert_array_equal(bank, copies[0])
    np.testing.assert_array_equal(rows, copies[1])
    assert bank.flags.writeable


def test_refusals_say_what_would_be_right() -> None:
    search = NearestNeighbors(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"shape \(q, 3\)"):
        search.query(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="k must be at least 1"):
        search.query(np.zeros((2, 3)), k=0)
    with pytest.raises(ValueError, match="bank_group"):
        search.query(np.zeros((2, 3)), exclude=[0, 1])
    with pytest.raises(ValueError, match=r"exclude must have shape \(2,\)"):
        NearestNeighbors(np.zeros((4, 3)), bank_group=np.zeros(4)).query(
            np.zeros((2, 3)), exclude=[0]
        )
    with pytest.raises(ValueError, match=r"rows must be finite.*row 1 is not"):
        search.query(np.array([[0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(ValueError, match="bank must be finite"):
        NearestNeighbors(np.array([[np.inf, 0.0]]))
    with pytest.raises(ValueError, match="bank must have shape"):
        NearestNeighbors(np.zeros(3))
    with pytest.raises(ValueError, match=r"bank_group must have shape \(4,\)"):
        NearestNeighbors(np.zeros((4, 3)), bank_group=[0])


def test_sketches_of_wide_rows_on_hard_data() -> None:
    # Two far clusters, near copies, lines and rows of very different length, at the width and
    # size that are sketched in use.
    rng = np.random.default_rng(5)
    wide = rng.standard_normal((400, 140))
    bank = np.concatenate(
        [
            wide + 300,
            wide * np.geomspace(1e-3, 1e3, 400)[:, None],
            wide[:1] * np.linspace(-5, 5, 400)[:, None],
            wide[:200].repeat(2, axis=0) + 1e-6 * rng.standard_normal((400, 140)),
        ]
    ).astype(np.float32)
    rows = np.concatenate([bank[::40], bank[::50] + 0.1, wide[:20]]).astype(np.float32)
    distance, index = NearestNeighbors(bank).query(rows, k=3)
    expected, expected_index = _reference(rows, bank, 3)
    np.testing.assert_allclose(distance, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(index, expected_index)


def test_large_wide_bank_far_from_its_mean() -> None:
    # The rows' norms are a thousand times their distances: float32 sketches of the queries are off
    # by more than the nearest bank rows differ in.
    rng = np.random.default_rng(8)
    sides = rng.choice([-300.0, 300.0], 2600)[:, None] * np.ones(130)
    spread = np.zeros((2600, 130))
    spread[:, :30] = rng.standard_normal((2600, 30))  # hence the sketches' rest is all rounding
    points = (sides + spread @ np.linalg.qr(rng.standard_normal((130, 130)))[0]).astype(np.float32)
    bank, rows = points[:2000], points[2000:]
    group, exclude = np.arange(2000) % 7, np.arange(600) % 8 - 1
    search = NearestNeighbors(bank, bank_group=group)
    distance, index = search.query(rows, k=4, exclude=exclude)
    expected, expected_index = _reference(rows, bank, 4, group[None, :] != exclude[:, None])
    np.testing.assert_allclose(distance, expected, rtol=1e-9)
    np.testing.assert_array_equal(index, expected_index)
    for i in (0, 1, 511, 512, 599):  # others before it or none
        one, one_index = search.query(rows[i : i + 1], k=4, exclude=exclude[i : i + 1])
        assert one.tobytes() == distance[i : i + 1].tobytes()
        np.testing.assert_array_equal(one_index, index[i : i + 1])


def test_equal_rows_in_several_leaves() -> None:
    rng = np.random.default_rng(9)
    base = rng.standard_normal((3, 200)).astype(np.float32)
    bank = np.tile(base, (700, 1))
    distance, index = NearestNeighbors(bank).query(np.repeat(base, 2, axis=0), k=5)
    np.testing.assert_array_equal(distance, np.zeros((6, 5)))
    first = np.repeat(np.arange(3), 2)
    np.testing.assert_array_equal(index, first[:, None] + 3 * np.arange(5))
