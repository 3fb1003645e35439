"""Greedy k-center: pick for pick the plain loop, which is written out here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimgano._kernels import coreset, leave_out
from pyimgano._kernels.coreset import CoresetResult, greedy_k_center
from pyimgano._kernels.leave_out import leave_one_group_out_banks


def squared_distances(points: np.ndarray, row: int) -> np.ndarray:
    """float64, with four partial sums over the dimensions 0, 4, ..., 1, 5, ... and so on."""
    sums = np.zeros((4, len(points)))
    whole = points.shape[1] // 4 * 4
    for k in range(points.shape[1]):
        t = points[:, k].astype(np.float64) - np.float64(points[row, k])
        sums[k % 4 if k < whole else 0] += t * t
    return (sums[0] + sums[1]) + (sums[2] + sums[3])


def greedy_k_center_plain(
    points: np.ndarray, n_picks: int, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure every point against every pick; return picks, nearest, squared distance."""
    points = np.asarray(points, np.float32)
    picks = [first]
    nearest = np.zeros(len(points), np.int64)
    distance = squared_distances(points, first)
    unpicked = np.ones(len(points), bool)
    unpicked[first] = False
    for p in range(1, n_picks):
        c = int(np.argmax(np.where(unpicked, distance, -1.0)))
        picks.append(c)
        unpicked[c] = False
        new = squared_distances(points, c)
        closer = new < distance
        closer[c] = True
        closer[picks[:-1]] = False
        distance[closer] = new[closer]
        nearest[closer] = p
    return np.array(picks), nearest, distance


def leave_one_group_out_plain(
    points: np.ndarray, picks: np.ndarray, group: np.ndarray
) -> list[list[int]]:
    """One greedy selection per group, from the reduced bank on."""
    points = np.asarray(points, np.float32)
    refills = []
    for i in range(group.max() + 1):
        bank = [p for p in picks if group[p] != i]
        distance = np.full(len(points), np.inf)
        for p in bank:
            distance = np.minimum(distance, squared_distances(points, p))
        free = group != i
        free[bank] = False
        refill: list[int] = []
        while len(bank) + len(refill) < len(picks) and free.any():
            c = int(np.argmax(np.where(free, distance, -1.0)))
            refill.append(c)
            free[c] = False
            distance = np.minimum(distance, squared_distances(points, c))
        refills.append(refill)
    return refills


def check(points: np.ndarray, n_picks: int, first: int) -> CoresetResult:
    result = greedy_k_center(points, n_picks, first)
    picks, nearest, squared = greedy_k_center_plain(points, n_picks, first)
    np.testing.assert_array_equal(result.picks, picks)
    np.testing.assert_array_equal(result.nearest, nearest)
    np.testing.assert_array_equal(result.distance, np.sqrt(squared).astype(np.float32))
    assert result.radius == result.distance.max()
    assert result.picks.dtype == result.nearest.dtype == np.int64
    assert result.distance.dtype == np.float32
    return result


def check_groups(points: np.ndarray, result: CoresetResult, group: np.ndarray) -> None:
    refills = leave_one_group_out_banks(points, result, group)
    expected = leave_one_group_out_plain(points, result.picks, group)
    assert len(refills.starts) == len(expected) + 1
    assert refills.starts[0] == 0
    assert refills.starts[-1] == len(refills.refill)
    for i, refill in enumerate(expected):
        got = refills.refill[refills.starts[i] : refills.starts[i + 1]]
        np.testing.assert_array_equal(got, refill, err_msg=f"group {i}")


def clustered(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    centers = 10.0 * rng.standard_normal((7, d))
    return centers[rng.integers(0, 7, n)] + rng.standard_normal((n, d)) * rng.random((n, 1))


def test_by_hand() -> None:
    points = np.array([[0.0], [1.0], [2.0], [10.0], [4.0]])
    result = greedy_k_center(points, n_picks=3, first=0)
    np.testing.assert_array_equal(result.picks, [0, 3, 4])
    np.testing.assert_array_equal(result.nearest, [0, 0, 0, 1, 2])  # 2 is as far from 0 as from 4
    np.testing.assert_array_equal(result.distance, np.float32([0, 1, 2, 0, 0]))
    assert result.radius == 2.0


@pytest.mark.parametrize("d", [1, 2, 3, 7, 14, 15, 16, 17, 31, 32, 33, 64, 100, 130])
def test_equals_the_plain_loop(d: int) -> None:
    rng = np.random.default_rng(d)
    check(rng.standard_normal((700, d)), 150, 5)
    check(clustered(rng, 700, d), 200, 699)


def test_many_points_in_few_dimensions() -> None:
    rng = np.random.default_rng(0)
    check(rng.random((6000, 3)), 400, 0)
    check(clustered(rng, 6000, 20), 300, 17)


@pytest.mark.parametrize("scale", [1e-25, 1e-20, 1e-6, 1e6, 1e15])
def test_any_scale(scale: float) -> None:
    points = scale * clustered(np.random.default_rng(1), 300, 9)
    check(points, 100, 0)


def test_far_from_the_origin() -> None:
    rng = np.random.default_rng(2)
    check(1e4 + 0.02 * rng.standard_normal((500, 12)), 120, 3)


def test_one_point_very_far_away() -> None:
    points = np.random.default_rng(3).standard_normal((400, 20))
    points[123] = 1e9
    check(points, 100, 0)


def test_every_point_is_picked() -> None:
    points = clustered(np.random.default_rng(4), 200, 5)
    result = check(points, 200, 42)
    np.testing.assert_array_equal(np.sort(result.picks), np.arange(200))
    np.testing.assert_array_equal(result.picks[result.nearest], np.arange(200))
    assert result.radius == 0.0


def test_duplicates_give_distinct_picks() -> None:
    points = np.repeat(np.array([[0.0, 0.0], [3.0, 4.0]]), 4, axis=0)
    result = check(points, 5, 6)
    # 6 is given, 0 is the first of the far ones; then the lowest unpicked rows
    np.testing.assert_array_equal(result.picks, [6, 0, 1, 2, 3])
    np.testing.assert_array_equal(result.nearest, [1, 2, 3, 4, 0, 0, 0, 0])
    rng = np.random.default_rng(5)
    check(rng.integers(0, 3, (400, 4)), 300, 9)  # 81 different points


def test_more_points_equally_far_away_than_the_pool_holds() -> None:
    rng = np.random.default_rng(9)
    check(rng.integers(0, 2, (4000, 12)), 900, 3)


@pytest.mark.parametrize(("pool", "batch"), [(1, 1), (2, 5), (64, 7), (1024, 1024)])
def test_size_of_batches_and_threads_change_nothing(
    pool: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreset, "_POOL", pool)
    monkeypatch.setattr(coreset, "_BATCH", batch)
    monkeypatch.setattr(coreset, "_WORTH_THREADS", -1.0)
    for module in (coreset, leave_out):
        monkeypatch.setattr(module, "n_threads", lambda: 3)
    rng = np.random.default_rng(10)
    for points in (rng.standard_normal((900, 20)), rng.integers(0, 4, (900, 5))):
        check_groups(points, check(points, 300, 17), np.arange(900) // 100)


def test_one_point() -> None:
    result = check(np.zeros((1, 3)), 1, 0)
    np.testing.assert_array_equal(result.picks, [0])


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 120),
    d=st.integers(1, 40),
    share=st.floats(0, 1),
    kind=st.sampled_from(["normal", "clustered", "coarse", "line"]),
)
def test_equals_the_plain_loop_on_anything(
    seed: int, n: int, d: int, share: float, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    points = {
        "normal": lambda: rng.standard_normal((n, d)),
        "clustered": lambda: clustered(rng, n, d),
        "coarse": lambda: rng.integers(0, 2, (n, d)),
        "line": lambda: np.arange(n)[:, None] * rng.standard_normal(d),
    }[kind]()
    result = check(points, 1 + int(share * (n - 1)), int(rng.integers(n)))
    group = rng.integers(0, rng.integers(2, 9), n)
    if group.min() < group.max():
        check_groups(points, result, group)


@pytest.mark.parametrize("d", [1, 3, 20, 70])
def test_leaving_groups_out_equals_one_selection_per_group(d: int) -> None:
    rng = np.random.default_rng(d)
    for points in (rng.standard_normal((600, d)), clustered(rng, 600, d)):
        group = np.arange(600) // 60
        for n_picks in (1, 12, 150):
            check_groups(points, greedy_k_center(points, n_picks, 0), group)


def test_leaving_out_what_nobody_else_has() -> None:
    # Group 1 alone covers the far end; without it the others fill up around 0.
    points = np.array([[0.0], [0.5], [0.2], [9.0], [8.0]])
    result = greedy_k_center(points, 3, 0)
    np.testing.assert_array_equal(result.picks, [0, 3, 4])
    refills = leave_one_group_out_banks(points, result, [0, 0, 0, 1, 1])
    # without group 0 nothing is left to pick: 3 and 4 are in the bank
    np.testing.assert_array_equal(refills.starts, [0, 0, 2])
    np.testing.assert_array_equal(refills.refill, [1, 2])


def test_groups_without_points_or_picks() -> None:
    points = np.array([[0.0], [10.0], [5.0], [4.0]])
    result = greedy_k_center(points, 2, 0)
    refills = leave_one_group_out_banks(points, result, [0, 2, 3, 3])
    np.testing.assert_array_equal(refills.starts, [0, 1, 1, 2, 2])
    np.testing.assert_array_equal(refills.refill, [3, 2])


def test_read_only_memory_map(tmp_path) -> None:
    points = np.random.default_rng(6).standard_normal((80, 6)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    result = greedy_k_center(mapped, 20, 1)
    np.testing.assert_array_equal(result.picks, greedy_k_center(points, 20, 1).picks)
    group = np.arange(80) // 20
    np.testing.assert_array_equal(
        leave_one_group_out_banks(mapped, result, group).refill,
        leave_one_group_out_banks(points, result, group).refill,
    )
    assert points.flags.writeable


def test_progress_ends_with_all() -> None:
    points = np.random.default_rng(7).standard_normal((300, 4))
    seen: list[tuple[int, int]] = []
    result = greedy_k_center(points, 50, 0, progress=lambda *at: seen.append(at))
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)
    seen.clear()
    group = np.arange(300) % 3
    leave_one_group_out_banks(points, result, group, progress=lambda *at: seen.append(at))
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


def test_can_be_interrupted_between_chunks() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    points = np.random.default_rng(8).standard_normal((300, 4))
    with pytest.raises(KeyboardInterrupt):
        greedy_k_center(points, 100, 0, progress=interrupt)


def test_refusals_say_what_would_be_right() -> None:
    points = np.zeros((4, 2))
    with pytest.raises(ValueError, match="n_picks must be from 1 to the number of points 4"):
        greedy_k_center(points, 5, 0)
    with pytest.raises(ValueError, match="n_picks"):
        greedy_k_center(points, 0, 0)
    with pytest.raises(ValueError, match="first must be a row of the 4 points, got 4"):
        greedy_k_center(points, 2, 4)
    with pytest.raises(ValueError, match="points must have shape"):
        greedy_k_center(np.zeros(4), 1, 0)
    for bad in (np.nan, np.inf, 1e30):
        broken = np.zeros((4, 2))
        broken[2, 1] = bad
        with pytest.raises(ValueError, match=r"points must be finite.*row 2"):
            greedy_k_center(broken, 2, 0)
    result = greedy_k_center(np.arange(4.0)[:, None], 2, 0)
    with pytest.raises(ValueError, match="at least two groups"):
        leave_one_group_out_banks(np.arange(4.0)[:, None], result, np.zeros(4, int))
    with pytest.raises(ValueError, match=r"group must have shape \(4,\)"):
        leave_one_group_out_banks(np.arange(4.0)[:, None], result, [0, 1])
    with pytest.raises(ValueError, match="must not be negative"):
        leave_one_group_out_banks(np.arange(4.0)[:, None], result, [0, 1, -1, 0])
    with pytest.raises(ValueError, match="selected from 4 points, not from 5"):
        leave_one_group_out_banks(np.arange(5.0)[:, None], result, [0, 1, 1, 0, 0])


def test_a_selection_goes_on_where_it_ended():
    points = np.random.RandomState(0).normal(size=(400, 6))
    whole = greedy_k_center(points, 60, first=7)
    for n_before in (2, 25, 60):
        again = greedy_k_center(points, 60, first=whole.picks[:n_before])
        for one, other in zip(again, whole):
            np.testing.assert_array_equal(one, other)
    for wrong in ([3, 3], [0, 400], np.arange(61)):
        with pytest.raises(ValueError, match="first must be"):
            greedy_k_center(points, 60, first=wrong)
