"""Training patches kept in a file: what goes in comes out, whoever asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pyimgano.detectors import _patches
from pyimgano.detectors._patches import PatchStore
from pyimgano.grids import PatchGrids


@pytest.fixture(params=[0, 2**20], ids=["file", "memory"])
def store(request, monkeypatch):
    """Twenty images of different sizes, whose patches all differ."""
    monkeypatch.setattr(_patches, "_IN_MEMORY", request.param)
    images = [np.arange(3 * n * 5, dtype=np.float32).reshape(1, 3, n, 5) + n for n in range(1, 21)]
    with PatchStore() as store:
        for image in images:
            store.append(PatchGrids.from_array(image))
        yield store, [image.reshape(-1, 5) for image in images]


def test_rows_come_back(store):
    store, images = store
    assert store.n_patches == sum(map(len, images)) and store.n_features == 5
    for i, image in enumerate(images):
        np.testing.assert_array_equal(store.rows_of(i), image)
        np.testing.assert_array_equal(store.rows_of(i, slice(1, 3)), image[1:3])
    index = np.array([70, 0, 69, 3, 3, store.n_patches - 1])
    np.testing.assert_array_equal(store.take(index), np.concatenate(images)[index])


def test_many_threads_may_ask_at_once(store):
    store, images = store
    order = np.random.RandomState(0).randint(20, size=4000).tolist()
    with ThreadPoolExecutor(4) as pool:
        for i, rows in zip(order, pool.map(store.rows_of, order)):
            np.testing.assert_array_equal(rows, images[i])
