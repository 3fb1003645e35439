"""Write golden files: ``python -m tests.golden.make [CASE ...]``.

Those in the repository were written by version 0.1 development commit e788199, on one thread
(OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1), and are not to be written anew: they stand for what
users have saved. A new case is written by its name; the others stay as they are.

- ``golden.json`` has the results of each case, see ``compare.py``;
- ``files/CASE.joblib`` is the fitted estimator, by ``joblib.dump``;
- ``files/saved/CASE.joblib`` is one by ``pyimgano.save``, with its side file;
- where a change of the package was meant to move what is learned, ``anew`` in a case of
  ``golden.json`` has the results that an estimator fitted by this version has instead
  (``python -m tests.golden.make --anew CASE ...``); those of the files stay;
- ``names.txt`` lists all of the package that these files look up, a module and a name a line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import joblib
import numpy as np
from joblib import numpy_pickle

import pyimgano
from tests.golden import _cases, compare

HERE = Path(__file__).resolve().parent

# Modules of scikit-learn whose classes hold what any version understands.
_PLAIN = ("frozen", "model_selection", "pipeline", "preprocessing", "utils")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write golden files.")
    parser.add_argument("cases", nargs="*", help="only these cases; all by default")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write")
    parser.add_argument("--commit", default="e788199", help="of the package, for golden.json")
    parser.add_argument(
        "--anew",
        action="store_true",
        help="write no files, only how results of an estimator fitted now differ from theirs",
    )
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if options.anew:
        write_anew(options.cases, folder / "golden.json")
        return
    (folder / "files" / "saved").mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "commit": options.commit,
        "versions": {module: version(module) for module in ("cv2", "numpy", "pyod", "sklearn")},
        "inputs": input_digests(),
        "cases": {},
    }
    names: set[str] = set()
    if options.cases:
        about = json.loads((folder / "golden.json").read_text("utf-8"))
        about["inputs"] = input_digests()
        names.update((folder / "names.txt").read_text("utf-8").splitlines())
    for name in options.cases or sorted(_cases.CASES):
        with tempfile.TemporaryDirectory() as weights:
            about["cases"][name], looked_up = write_case(name, folder / "files", Path(weights))
        names.update(f"{m} {n}" for m, n in looked_up if m.partition(".")[0] == "pyimgano")
    text = json.dumps(about, indent=0, sort_keys=True)
    (folder / "golden.json").write_text(f"{text}\n", "utf-8")
    (folder / "names.txt").write_text("".join(f"{line}\n" for line in sorted(names)), "utf-8")


def write_anew(names: Sequence[str], path: Path) -> None:
    """Write the results of cases fitted now, as far as they are not those of their files."""
    about = json.loads(path.read_text("utf-8"))
    for name in names:
        case, entry = _cases.CASES[name], about["cases"][name]
        with tempfile.TemporaryDirectory() as weights:
            before = Path.cwd()
            os.chdir(weights)
            try:
                _cases.write_weights(Path(weights))
                found = compare.described(_cases.outcome(_cases.made(case), case))
            finally:
                os.chdir(before)
        other = {key: found[key] for key in entry["results"] if found[key] != entry["results"][key]}
        entry.pop("anew", None)
        if other:
            entry["anew"] = other
    path.write_text(f"{json.dumps(about, indent=0, sort_keys=True)}\n", "utf-8")


def input_digests() -> dict[str, str]:
    """Hash of the samples of each name that cases ask for."""
    names = sorted({case.data for case in _cases.CASES.values()})
    return {name: joblib.hash([_plain(part) for part in _cases.inputs(name)]) for name in names}


def _plain(samples: Any) -> Any:
    return getattr(samples, "rows", samples)


def write_case(
    name: str, files: Path, weights: Path
) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """Write the files of a case; return its entry in ``golden.json`` and what they look up."""
    case = _cases.CASES[name]
    before = Path.cwd()
    os.chdir(weights)
    looked_up: set[tuple[str, str]] = set()
    try:
        _cases.write_weights(weights)
        found = _cases.made(case)
        results = compare.described(_cases.outcome(found, case))
        if case.file:
            path = files / f"{name}.joblib"
            joblib.dump(found, path, compress=("xz", 6), protocol=4)
            looked_up |= names_in(path)
        if case.saved:
            path = files / "saved" / f"{name}.joblib"
            pyimgano.save(found, path, compress=9)
            looked_up |= names_in(path)
    finally:
        os.chdir(before)
    of = of_versions(module for module, _ in looked_up) | ({"cv2"} if case.moves else set())
    return {"results": results, "of": sorted(of)}, looked_up


def names_in(path: Path) -> set[tuple[str, str]]:
    """Modules and names of what is looked up while a file is loaded."""
    found = set()
    look_up = numpy_pickle.NumpyUnpickler.find_class

    def noted(self: Any, module: str, name: str) -> Any:
        found.add((module, name))
        return look_up(self, module, name)

    with patch.object(numpy_pickle.NumpyUnpickler, "find_class", noted):
        joblib.load(path)
    return found


def of_versions(modules: Iterable[str]) -> set[str]:
    """Packages whose other versions may not understand what they stored."""
    found = set()
    for module in modules:
        top, *inner = module.split(".")
        if (
            top == "pyod"
            or (top == "sklearn" and inner[0] not in _PLAIN)
            or (top == "numpy" and inner[:1] in (["_core"], ["random"]))
        ):
            found.add(top)
    return found


def version(package: str) -> list[int]:
    """Major and minor version of an installed package."""
    distribution = {"cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    found = metadata.version(distribution.get(package, package))
    return [int(part) for part in found.split(".")[:2]]


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
