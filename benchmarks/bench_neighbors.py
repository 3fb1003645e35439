"""The exact nearest-neighbor search against its alternatives, on features of real or made images.

    python benchmarks/bench_neighbors.py [--folder bottle --backbone resnet18 --weights r18.pth] \
        [--ratios 0.01 0.1] [--images 8] [--repeats 5]

Banks are those that PatchCore chooses of ``folder/train/good`` (procedural screws by default);
queries are all patches of images spread over ``folder/test``, image by image, on one thread. The
searches: this package's; a float32 product with all of the bank (numpy) and, where torch is
installed, a bfloat16 product with all of it or with sketches of 64 numbers, each of which gives
lower bounds of the distances, so that the few rows left are measured in float64; and, where it
is installed, faiss's ``IndexFlatL2``. Prints a Markdown table: milliseconds of CPU time per image,
the best of some repetitions; in how many queries the neighbor differs from this package's, and
by how much at most the distance, relatively.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from pyimgano._kernels import neighbors as _neighbors
from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano._kernels.sketches import squared_norms
from pyimgano.datasets import write_inspection_dataset
from pyimgano.detectors import PatchCoreDetector
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None
try:
    import faiss

    faiss.omp_set_num_threads(1)
except ImportError:
    faiss = None

# Rows and bank rows multiplied at a time; products then stay in the processor's cache.
BLOCKS = (128, 4096)


class Bfloat16Product:
    """Lower bounds from a bfloat16 product, then the exact distances of what they leave.

    Rounding moves a row (or its sketch) by a known distance, and the product, itself rounded to
    bfloat16, is off by at most 2**-9 of itself.
    """

    def __init__(self, bank: np.ndarray, *, sketched: bool = False) -> None:
        self.bank = bank
        self.mean = bank.mean(axis=0)
        self.bounds = _neighbors._Leaves(bank, self.mean) if sketched else None
        # (r + x)^2 <= (1 + t) r^2 + (1 + 1/t) x^2, x the two sides' errors, x^2 <= 2 xq^2 + 2 xc^2
        self.t = 2.0**-6
        self.rounding = 2.0**-9 + (bank.shape[1] + 8) * 2.0**-23
        self.half, part_of_bound = self.prepare(bank)
        self.bias = part_of_bound.astype(np.float32)

    def prepare(self, rows: np.ndarray):
        centered, squared_norm = _neighbors._centered(rows, self.mean, "rows", 0)
        off = 2.0**-20 * np.sqrt(squared_norm)
        if self.bounds is not None:
            centered, rest = _neighbors._sketch(centered, squared_norm, self.bounds._axes)
            w = 3.0 * self.bounds._a * squared_norm
            off = off + w / np.sqrt(np.maximum(rest, w) + 1e-36)
        exact = torch.from_numpy(centered)
        half = exact.bfloat16()
        back = half.float().numpy()
        off = off + np.sqrt(squared_norms(centered - back))
        norm = squared_norms(back) * (1.0 - self.rounding)
        return half, (norm - 2.0 * (1.0 + 1.0 / self.t) * off**2) / (1.0 + self.t)

    def products(self, half) -> Iterator[tuple[slice, slice, np.ndarray]]:
        low = torch.empty(BLOCKS[0] * BLOCKS[1], dtype=torch.bfloat16)
        wide = torch.empty(BLOCKS[0] * BLOCKS[1])
        for i in range(0, len(half), BLOCKS[0]):
            some = half[i : i + BLOCKS[0]]
            for j in range(0, len(self.half), BLOCKS[1]):
                part = self.half[j : j + BLOCKS[1]]
                shape = (len(some), len(part))
                out = low[: len(some) * len(part)].view(shape)
                torch.mm(some, part.T, out=out)
                product = wide[: len(some) * len(part)].view(shape).copy_(out).numpy()
                yield slice(i, i + len(some)), slice(j, j + len(part)), product

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half, floor = self.prepare(rows)
        factor = np.float32(-2.0 / (1.0 + self.t))
        distance, index = np.full((len(rows), 1), np.inf), np.full((len(rows), 1), -1)
        skip, group = np.full(len(rows), -1), np.empty(0, np.int64)
        for some, part, product in self.products(half):
            product *= factor
            _neighbors._take_candidates(
                _neighbors.read_only(rows[some]),
                _neighbors.read_only(self.bank[part]),
                part.start,
                product,
                self.bias[part],
                floor[some],
                group,
                skip[some],
                distance[some],
                index[some],
            )
        return np.sqrt(distance), index


def float32_product(bank: np.ndarray) -> Callable:
    search = NearestNeighbors(bank)
    search._bounds = _neighbors._Products(search.bank, search._bounds.mean)
    return search.query


def faiss_flat(bank: np.ndarray) -> Callable:
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank)

    def search(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        squared, nearest = index.search(rows, 1)
        return np.sqrt(np.maximum(squared, 0.0)), nearest

    return search


def bfloat16_alone(bank: np.ndarray) -> Callable:
    """The product and nothing else: what any search on top of it needs more than."""
    search = Bfloat16Product(bank)

    def products(rows: np.ndarray) -> tuple[None, None]:
        for _ in search.products(search.prepare(rows)[0]):
            pass
        return None, None

    return products


def searches(wide: bool) -> Iterator[tuple[str, Callable]]:
    yield "NearestNeighbors", lambda bank: NearestNeighbors(bank).query
    yield "float32 product, exact distances", float32_product
    if torch is not None:
        yield "bfloat16 product alone", bfloat16_alone
        yield "bfloat16 product, exact distances", Bfloat16Product
    if torch is not None and wide:
        yield "bfloat16 sketches, exact distances", partial(Bfloat16Product, sketched=True)
    if faiss is not None:
        yield "faiss IndexFlatL2", faiss_flat


def cpu_ms(search: Callable, rows: np.ndarray, repeats: int) -> float:
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        search(rows)
        best = min(best, time.process_time() - began)
    return best * 1e3


def relative_error(distance: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(distance - expected) / np.maximum(expected, 1e-30)).max())


def compare(bank: np.ndarray, images: list[np.ndarray], repeats: int) -> None:
    """Print one row of the table for each search."""
    expected: list | None = None
    for name, build in searches(bank.shape[1] >= _neighbors._WIDE):
        search = build(bank)
        found = [search(rows) for rows in images]  # compiles, too
        if expected is None:
            expected = found
        ms = np.mean([cpu_ms(search, rows, repeats) for rows in images])
        cells = ["", ""]
        if found[0][0] is not None:
            other = sum(int((a[1] != b[1]).sum()) for a, b in zip(found, expected))
            worst = max(relative_error(a[0], b[0]) for a, b in zip(found, expected))
            cells = [str(other), f"{worst:.1e}" if worst else "0"]
        print(f"| {len(bank)} | {name} | {ms:.1f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="has train/good and test; made by default")
    parser.add_argument("--backbone", default="filterbank", help="filterbank or a backbone")
    parser.add_argument("--weights", help="state dict of the backbone; random by default")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.backbone == "filterbank":
        features = FilterBankFeatures(resize=256)
    else:
        features = BackbonePatchFeatures(
            args.backbone, weights=args.weights, resize=256, crop=224, random_state=0
        )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(args.folder or made)
        if args.folder is None:
            folder = write_inspection_dataset(made, "screw", n_train=100, random_state=0)
        train = features.fit_transform(sorted((folder / "train" / "good").iterdir()))
        every = sorted((folder / "test").glob("*/*"))
        some = np.linspace(0, len(every) - 1, min(args.images, len(every))).astype(int)
        grids = [features.transform([every[i]]) for i in some]
    images = [np.ascontiguousarray(one.rows, dtype=np.float32) for one in grids]
    print(f"{len(images[0])} queries of {images[0].shape[1]} numbers per image\n")
    print("| bank | search | CPU ms/image | other neighbor | distance off by |")
    print("|---:|---|---:|---:|---:|")
    for ratio in args.ratios:
        detector = PatchCoreDetector(coreset_ratio=ratio).fit(train)
        compare(detector.bank_, images, args.repeats)


if __name__ == "__main__":
    main()
