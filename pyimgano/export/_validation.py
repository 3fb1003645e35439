"""Checks that a delivered bundle is whole, and scores as it did where it was made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np

from pyimgano._version import __version__
from pyimgano.exceptions import BundleError, SampleError, UntrustedFileError, WeightsError
from pyimgano.export._bundle import (
    CONFIG,
    MANIFEST,
    differences,
    file_problem,
    golden_scores,
    listed_files,
    model_file,
    onnx_names,
    unpacked,
    use_onnx,
)
from pyimgano.export._config import as_current, json_schema, read_object
from pyimgano.persistence import load
from pyimgano.utils._environment import scoring_versions

__all__ = ["Check", "Validation", "validate"]

SCHEMA_VERSION = 1
# By how much a score may differ, relative to it: other processors add up in another order.
_TOLERANCE = 1e-4


class Check(NamedTuple):
    """One thing that was looked at.

    Parameters
    ----------
    name : str
        Such as ``"files"``.
    ok : bool
    detail : str
        What was found.
    """

    name: str
    ok: bool
    detail: str


class Validation(NamedTuple):
    """Result of :func:`validate`.

    Parameters
    ----------
    target : str
        Name of the bundle, without its folder.
    checks : list of Check
        In the order in which they were made. A check that fails ends those that build on it.
    """

    target: str
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """True if every check passed."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Give the result in plain JSON types, as the schema ``validation`` describes it.

        Returns
        -------
        dict
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "ok": self.ok,
            "checks": [check._asdict() for check in self.checks],
        }


def validate(path: str | os.PathLike[str]) -> Validation:
    """Check a bundle: its files, schema, versions, thresholds, and the scores of golden images.

    Parameters
    ----------
    path : str or Path
        A folder or archive that :func:`export_bundle` made, or a file ``infer_config.json``,
        whose pipeline lies beside it; the latter has no manifest to compare files with.

    Returns
    -------
    Validation
        Its ``ok`` is True if all checks passed: ``manifest``, ``files``, ``schema``,
        ``versions``, ``pipeline``, ``configuration`` and ``golden``.

    Raises
    ------
    BundleError
        If ``path`` is neither a bundle nor a configuration.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pyimgano
    >>> from pyimgano.export import export_bundle, validate
    >>> rows = np.random.RandomState(0).normal(size=(50, 4))
    >>> detector = pyimgano.PatchCoreDetector().fit(rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_bundle(detector, f"{folder}/line3")
    ...     _ = (path / "model_card.md").write_text("a better one")
    ...     [check.name for check in validate(path).checks if not check.ok]
    ['files']
    """
    with unpacked(path) as (folder, name):
        return Validation(Path(path).name, _Checks(folder, name).run())


class _Failed(Exception):
    """A check that failed, on which others build."""


class _Checks:
    """The checks of one bundle."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._entries: dict[str, Any] | None = None  # of the manifest, if there is one
        self._done: list[Check] = []

    def run(self) -> list[Check]:
        try:
            self._look_at_files()
            config = self._look_at_configuration()
            self._look_at_versions(config)
            estimator = self._look_at_pipeline(config)
            self._replay(config, estimator)
        except _Failed:
            pass
        return self._done

    def _passed(self, name: str, detail: str) -> None:
        self._done.append(Check(name, True, detail))

    def _failed(self, name: str, detail: str) -> None:
        self._done.append(Check(name, False, detail))

    def _check_listed(self, names: list[str]) -> None:
        for name in names:
            if self._entries is not None and name not in self._entries:
                raise BundleError(f"{name} is used, and not in {MANIFEST}")

    def _look_at_files(self) -> None:
        if self._name != CONFIG or not (self._folder / MANIFEST).is_file():
            return  # a configuration by itself
        try:
            manifest = read_object(self._folder / MANIFEST)
            entries = listed_files(manifest, self._folder.name)
            if CONFIG not in entries:
                raise BundleError(f"{MANIFEST} does not list {CONFIG}")
        except BundleError as error:
            self._failed("manifest", str(error))
            raise _Failed from error
        self._entries = entries
        self._passed("manifest", f"lists {len(entries)} files")
        looked_at = (file_problem(self._folder, one, entry) for one, entry in entries.items())
        problems = [problem for problem in looked_at if problem is not None]
        there = {
            one.relative_to(self._folder).as_posix()
            for one in self._folder.rglob("*")
            if one.is_file()
        }
        more = sorted(there - set(entries) - {MANIFEST})
        if problems:
            self._failed("files", "; ".join(problems))
        else:
            others = f"; not in {MANIFEST}: {', '.join(more)}" if more else ""
            self._passed("files", f"all are those that were delivered{others}")

    def _look_at_configuration(self) -> dict[str, Any]:
        try:
            config = as_current(read_object(self._folder / self._name), self._name)
        except (BundleError, OSError) as error:
            what = f"{self._name} is missing" if isinstance(error, OSError) else str(error)
            self._failed("schema", what)
            raise _Failed from error
        problem = jsonschema.exceptions.best_match(
            jsonschema.Draft202012Validator(json_schema("infer_config")).iter_errors(config)
        )
        if problem is not None:
            where = ".".join(map(str, problem.absolute_path)) or self._name
            self._failed("schema", f"{where}: {problem.message[:200]}")
            raise _Failed
        self._passed("schema", f"{self._name} is as version {config['schema_version']} has it")
        return config

    def _look_at_versions(self, config: dict[str, Any]) -> None:
        made, here = config["pyimgano"], __version__
        if _release(made) > _release(here):
            self._failed(
                "versions",
                f"made with pyimgano {made}, and here is {here}, which is older: pip install "
                f'"pyimgano>={made}"',
            )
            return
        then, now = config["environment"]["packages"], scoring_versions()
        drift = [
            f"{name} {then[name]} (here {now.get(name, 'not installed')})"
            for name in sorted(then)
            if name in now and now[name] != then[name]
        ]
        # Whether that matters is what the golden images tell.
        said = f"; made with other versions of {', '.join(drift)}" if drift else ""
        self._passed("versions", f"made with pyimgano {made}, here is {here}{said}")

    def _look_at_pipeline(self, config: dict[str, Any]) -> Any:
        try:
            file = model_file(self._folder, config, self._name)
            self._check_listed([config["model"]["file"], *onnx_names(config)])
            estimator = load(file, sha256=config["model"]["sha256"])
            use_onnx(estimator, config, self._folder, self._name)
        except (BundleError, UntrustedFileError, ValueError, OSError) as error:
            self._failed("pipeline", str(error).replace(f"{self._folder}{os.sep}", ""))
            raise _Failed from error
        self._passed("pipeline", "is the one of the configuration, and loads")
        found = differences(config, estimator)
        if found:
            self._failed("configuration", "; ".join(found))
        else:
            self._passed("configuration", "says what the pipeline is, its thresholds among it")
        return estimator

    def _replay(self, config: dict[str, Any], estimator: Any) -> None:
        golden = config["golden"]
        if not golden:
            self._passed("golden", "there are no golden images, so no score was replayed")
            return
        try:
            names = [one["file"] for one in golden]
            self._check_listed(names)
            found = golden_scores(estimator, self._folder, names)
        except (BundleError, SampleError, WeightsError) as error:
            self._failed("golden", str(error).replace(f"{self._folder}{os.sep}", ""))
            return
        wrong, largest = [], 0.0
        for told, here in zip(golden, found):
            difference = abs(here["score"] - told["score"]) / max(abs(told["score"]), 1e-12)
            largest = max(largest, difference)
            if not difference <= _TOLERANCE or here["pred"] != told["pred"]:
                wrong.append(
                    f"{told['file']} scores {here['score']:.6g} and has to score "
                    f"{told['score']:.6g}"
                )
        if wrong:
            self._failed("golden", "; ".join(wrong))
        elif np.any([one["score"] != two["score"] for one, two in zip(golden, found)]):
            self._passed(
                "golden", f"{len(golden)} images score as they did, but for {largest:.1e} of it"
            )
        else:
            self._passed("golden", f"{len(golden)} images score as they did, bit for bit")


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparison: ``0.10.2.dev3`` is (0, 10)."""
    numbers = []
    for part in version.split(".")[:2]:
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
