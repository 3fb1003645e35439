"""``pyimgano-infer``: judge images with a saved pipeline, one JSON record per image."""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pyimgano.cli import _common

__all__ = ["main"]

_PROG = "pyimgano-infer"
_DESCRIPTION = """\
Judge images with a saved pipeline. Each image gets one line of JSON: index, path,
score (higher = more anomalous), threshold, pred (1 = anomalous) and p_value (how
often a good part scores as high). An image that cannot be read gets an error in
place of a score.
"""
_EPILOG = """\
examples:
  pyimgano-infer --pipeline pipeline.joblib --input photos --save-jsonl out.jsonl
  pyimgano-infer --pipeline pipeline.joblib --input "line3/*.png" --save-jsonl - \\
      --save-maps maps

exit status: 0 all images judged; 1 some could not be read; 2 wrong options or files.
"""


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    options = _parser(prog).parse_args(argv)
    return _common.run(prog, lambda: _infer(options))


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--pipeline", metavar="FILE", required=True, help="written by pyimgano.save"
    )
    parser.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        required=True,
        help="folders (with all below them), image files or glob patterns",
    )
    parser.add_argument(
        "--save-jsonl", metavar="FILE", required=True, help='where the records go; "-" is stdout'
    )
    parser.add_argument(
        "--save-maps",
        metavar="DIR",
        help="also write each anomaly map: float32 .npy in the pixels of the image (after the "
        "pipeline's own resize, if it has one), and a picture",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="state dict of the pipeline's network, where it is not at the place it had when the "
        "pipeline was fitted",
    )
    parser.add_argument(
        "--device",
        help='where the pipeline\'s network runs: "cpu", "cuda", "cuda:1" or "auto" for CUDA where '
        "there is one (default: as when it was fitted)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load the pipeline with joblib.load, which runs any code in it; only for files from "
        "people you trust",
    )
    return parser


def _infer(options: argparse.Namespace) -> int:
    images, names = _find_images(options.input)
    maps = None if options.save_maps is None else Path(options.save_maps)
    if maps is not None:
        _check_maps_folder(maps, options.input)
    pipeline = _load(options.pipeline, options.trust)
    _prepare_networks(pipeline, options)

    from pyimgano.inference import infer
    from pyimgano.utils._json import json_line

    writer = None if maps is None else _MapWriter(maps, pipeline, options.pipeline, images)
    n_anomalous = n_errors = 0
    started = time.perf_counter()
    with _output(options.save_jsonl) as file, _progress(len(images)) as step:
        for record, anomaly_map in infer(pipeline, images, maps=maps is not None):
            if writer is not None and anomaly_map is not None:
                record["map"] = writer.write(names[record["index"]], record, anomaly_map)
            file.write(json_line(record))
            file.flush()
            n_errors += "error" in record
            n_anomalous += record.get("pred", 0)
            step(record["index"] + 1, len(images))
    seconds = time.perf_counter() - started
    print(
        f"{options.prog}: {len(images)} images, {n_anomalous} anomalous, {n_errors} errors, "
        f"{len(images) / seconds:.1f} images/s",
        file=sys.stderr,
    )
    return _common.EXIT_ERRORS if n_errors else _common.EXIT_OK


# ---- input ----------------------------------------------------------------------------
def _find_images(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths of all images, and a name for each, relative to what was asked for."""
    from pyimgano.inputs import ImageSequence
    from pyimgano.utils._files import natural

    paths: list[str] = []
    for item in inputs:
        if os.path.isdir(item):
            paths += ImageSequence.from_folder(item, recursive=True).paths
        elif os.path.lexists(item):
            paths.append(item)
        elif glob.has_magic(item):
            found = [path for path in glob.glob(item, recursive=True) if not os.path.isdir(path)]
            if not found:
                raise _common.UsageError(f"--input {item}: no file matches this pattern")
            paths += sorted(found, key=natural)
        else:
            raise _common.UsageError(f"--input {item}: there is no such file or folder")
    paths = list(dict.fromkeys(paths))
    absolute = [os.path.abspath(path) for path in paths]
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    except ValueError:  # several drives
        common = None
    # A colon cannot be in a file name everywhere.
    names = [
        os.path.relpath(path, common) if common else re.sub(r"[:\\/]+", "/", path)
        for path in absolute
    ]
    return paths, names


def _check_maps_folder(maps: Path, inputs: Sequence[str]) -> None:
    for item in inputs:
        if os.path.isdir(item) and Path(item).resolve() in [
            maps.resolve(),
            *maps.resolve().parents,
        ]:
            raise _common.UsageError(
                f"--save-maps {maps} lies in --input {item}: its pictures would be taken for "
                "images the next time; give a folder elsewhere"
            )


def _load(path: str, trust: bool) -> Any:
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "there is no such file"
        raise _common.UsageError(f"--pipeline {path}: {what}; give a file saved by pyimgano")
    if not trust:
        from pyimgano.persistence import load

        pipeline = load(path)
    else:
        import pickle

        import joblib

        try:
            pipeline = joblib.load(path)
        except (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError) as error:
            raise _common.UsageError(f"--pipeline {path}: is no joblib file ({error})") from error
    if not hasattr(pipeline, "score_samples"):
        raise _common.UsageError(
            f"--pipeline {path}: holds a {type(pipeline).__name__}, which is no fitted detector"
        )
    return pipeline


def _prepare_networks(pipeline: Any, options: argparse.Namespace) -> None:
    """Set what the options say, and load the networks before any result file is touched."""
    from pyimgano._nesting import find_parts
    from pyimgano.features._network import BaseNetworkFeatures

    networks = find_parts(pipeline, BaseNetworkFeatures)
    asked = {name: getattr(options, name) for name in ("weights", "device")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and not networks:
        raise _common.UsageError(
            f"--{next(iter(asked))} belongs to a network, and {options.pipeline} has none"
        )
    if "weights" in asked and len({step.backbone for step in networks}) > 1:
        raise _common.UsageError(
            "--weights is one file, and this pipeline has several networks: load it in Python and "
            "use set_params(weights=...) on each"
        )
    for step in networks:
        step.set_params(**asked)
    for step in networks:
        if hasattr(step, "weights_sha256_"):
            step.load_network()


# Images whose maps give the scale of colors where none was saved.
_N_FOR_SCALE = 8


# ---- output ---------------------------------------------------------------------------
@contextmanager
def _output(path: str) -> Iterator[TextIO]:
    if path == "-":
        yield sys.stdout
        return
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def _progress(n: int) -> Iterator[Any]:
    from pyimgano.utils._progress import progress_callback

    with progress_callback("images", sys.stderr.isatty()) as progress:
        yield progress or (lambda done, total: None)


def _as_normalized(pipeline: Any, path: str) -> Any:
    """The image as the pipeline's ImageFormatNormalizer declares it, or as the file says."""
    from pyimgano._nesting import first_step
    from pyimgano.inputs import ImageFormatNormalizer, ImageSequence

    step = first_step(pipeline)
    if isinstance(step, ImageFormatNormalizer):
        return step.transform([path])[0]
    return ImageSequence([path])[0]


def _color_scale(pipeline: Any, path: str, images: Sequence[str]) -> tuple[float, float]:
    """Map values of the cold and the hot end: as saved, or else from the images at hand."""
    from pyimgano._nesting import makes_maps
    from pyimgano.inference import infer
    from pyimgano.persistence import read_map_range
    from pyimgano.reporting import range_of_maps

    saved = read_map_range(path)
    if saved is not None:
        return saved
    judged = []
    if makes_maps(pipeline):
        some = images[:: -(-len(images) // _N_FOR_SCALE)]
        judged = [pair for pair in infer(pipeline, some, maps=True) if pair[1] is not None]
    if not judged:
        return 0.0, 1.0  # there will be no picture
    good = [one for record, one in judged if not record["pred"]]
    whose = "that are judged normal" if good else "though all are judged anomalous"
    print(
        f"{_PROG}: warning: {path} was saved without a scale of colors, so it is taken from "
        f"{len(good or judged)} of these images, {whose}. pyimgano-train and "
        "pyimgano.save(..., map_range=...) keep one scale for all images",
        file=sys.stderr,
    )
    if good:
        return range_of_maps(good)
    return range_of_maps([one for _, one in judged], peak_at=1.0)


class _MapWriter:
    """Writes ``<name>.npy`` and ``<name>.png``, in folders like those of the images."""

    def __init__(self, folder: Path, pipeline: Any, path: str, images: Sequence[str]) -> None:
        self.folder = folder
        self.pipeline = pipeline
        self.limits = _color_scale(pipeline, path, images)

    def write(self, name: str, record: dict[str, Any], anomaly_map: Any) -> str:
        import io

        import numpy as np

        from pyimgano.reporting import overlay, write_overlay
        from pyimgano.utils._files import atomic_write

        # The suffix stays: a.png and a.jpg are two images.
        path = self.folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, np.asarray(anomaly_map, np.float32))
        with atomic_write(path) as file:
            file.write(content.getvalue())
        verdict = "anomalous" if record["pred"] else "normal"
        caption = (
            f"{verdict}\nscore {record['score']:.4g}, threshold {record['threshold']:.4g}\n{name}"
        )
        image = _as_normalized(self.pipeline, record["path"])
        write_overlay(
            self.folder / f"{name}.overlay.png", overlay(image, anomaly_map, self.limits, caption)
        )
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
