"""The layout of a run directory, known here and nowhere else.

::

    runs/20260131-142507_synthetic_patchcore/
      config.json                 what was asked for
      environment.json            what it ran on
      categories/<category>/
        pipeline.joblib (+ .json) the fitted pipeline, see pyimgano.load
        per_image.jsonl           one record per test image
        overlays/*.png            of each kind the worst judged, the best and the closest
        report.json               metrics, verdicts, threshold and its provenance, times
      report.json                 all categories in short

A training run, of :mod:`pyimgano.recipes`, is one of a single category, whose folder is called
``artifacts``::

    runs/20260131-142507_folder_industrial-adapt/
      config.json
      environment.json
      candidates/<model>/         a run of each of several models that are compared
      checkpoints/                of networks that are trained
      artifacts/                  as a category; the images judged are those of a test set, if any
      report.json                 with what the recipe decided, and the training images to look at

The order is that of writing. Every file is written whole (:mod:`pyimgano.utils._outputs`), and
``report.json`` is the last of its folder: a category is complete if and only if it has one, and so
is a run. So a run that was ended by whatever can go on in its directory: categories that are
complete stay as they are, :meth:`CategoryDirectory.create` makes room for the others.

Each JSON file, and each record, says by ``schema_version`` which of the schemas in ``schemas/``
describes it. Keys are sorted, and all that differs between two equal runs is under ``times``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from pyimgano.exceptions import RunError
from pyimgano.utils._json import read_json, read_json_lines, write_json, writing_json_lines
from pyimgano.utils._outputs import short_name

__all__ = ["SCHEMA_VERSION", "CategoryDirectory", "RunDirectory", "json_schema"]

#: Goes up when a file changes so that a program which reads the older one fails.
SCHEMA_VERSION = 1
_SCHEMAS = (
    "report",
    "config",
    "environment",
    "category_report",
    "record",
    "robustness",
)


def json_schema(name: str) -> dict[str, Any]:
    """Give the JSON Schema of a file of a run directory, or of a robustness report.

    Parameters
    ----------
    name : {"report", "config", "environment", "category_report", "record", "robustness"}
        ``record`` is that of a line of ``per_image.jsonl``, ``robustness`` that of what
        :func:`~pyimgano.robustness.run_robust_benchmark` returns.

    Returns
    -------
    dict

    Examples
    --------
    >>> from pyimgano.benchmark import json_schema
    >>> "mean" in json_schema("report")["required"]
    True
    """
    if name not in _SCHEMAS:
        raise ValueError(f"name must be one of {', '.join(map(repr, _SCHEMAS))}, got {name!r}.")
    text = files("pyimgano.benchmark").joinpath(f"schemas/{name}.schema.json").read_text("utf-8")
    return json.loads(text)


class RunDirectory:
    """One run on disk. Every file in it is written whole or not at all.

    Parameters
    ----------
    path : str or Path
        An existing run directory; :meth:`create` makes a new one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        output_dir: str | os.PathLike[str],
        dataset: str,
        model: str,
        *,
        now: datetime | None = None,
    ) -> RunDirectory:
        """Make ``output_dir/<timestamp>_<dataset>_<model>``, with a number if it exists.

        Parameters
        ----------
        output_dir : str or Path
            Created if need be.
        dataset, model : str
            Parts of the name; characters that file systems object to become ``-``.
        now : datetime, default=None
            Local time for the timestamp; None is now.
        """
        stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
        name = short_name(f"{stamp}_{_file_name(dataset)}_{_file_name(model)}")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = Path(output_dir) / (name if number == 1 else f"{name}_{number}")
            try:
                path.mkdir()
            except FileExistsError:  # another run of this second
                number += 1
                continue
            return cls(path)

    @classmethod
    def find(
        cls, output_dir: str | os.PathLike[str], config: Mapping[str, Any]
    ) -> RunDirectory | None:
        """Find the newest run that was asked for the same.

        Parameters
        ----------
        output_dir : str or Path
            Folder of runs.
        config : mapping
            As ``write_config`` writes it.

        Returns
        -------
        RunDirectory or None
        """
        same = (run for run in cls.newest_first(output_dir) if run.read_config() == config)
        return next(same, None)

    @classmethod
    def newest_first(cls, output_dir: str | os.PathLike[str]) -> Iterator[RunDirectory]:
        """Find the runs in a folder.

        Parameters
        ----------
        output_dir : str or Path
            Folder of runs.

        Yields
        ------
        RunDirectory
        """
        for path in sorted(Path(output_dir).glob("*/config.json"), reverse=True):
            run = cls(path.parent)
            try:
                content = run.read_config()
            except ValueError:  # no run of ours
                continue
            if isinstance(content, dict):
                yield run

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def is_complete(self) -> bool:
        """True if the run came to its end."""
        return self.report.exists()

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of a training run; not created here."""
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> CategoryDirectory:
        """Folder of the one category of a training run; not created here."""
        return CategoryDirectory(self.path / "artifacts")

    def candidate(self, number: int, model: str) -> RunDirectory:
        """Directory of one of several models that are compared; not created here.

        Parameters
        ----------
        number : int
            Its place in the comparison.
        model : str
            Its name.

        Returns
        -------
        RunDirectory
        """
        return RunDirectory(self.path / "candidates" / f"{number:02d}_{_file_name(model)}")

    def categories(self) -> list[CategoryDirectory]:
        """The categories that are complete, sorted by name."""
        reports = sorted(self.path.glob("categories/*/report.json"))
        found = [CategoryDirectory(report.parent) for report in reports]
        return [*found, self.artifacts] if self.artifacts.is_complete else found

    def category(self, name: str) -> CategoryDirectory:
        """Folder of one category; nothing is created yet.

        Parameters
        ----------
        name : str
            Name of the category. Characters that no file name may have are replaced. The folder's
            name then ends in a few digits that no other category has, and so does a name with
            capital letters: on some systems it would be that of another category.

        Returns
        -------
        CategoryDirectory
        """
        return CategoryDirectory(self.path / "categories" / _folder_name(name))

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_json(self.config, config)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_json(self.environment, environment)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """The last thing that a run writes.

        Parameters
        ----------
        report : mapping
            In plain JSON types.
        """
        write_json(self.report, report)

    def read_report(self) -> dict[str, Any]:
        """Read ``report.json``; another version of its schema is a ``RunError``."""
        return _read_report(self.report)

    def what_there_is(self) -> str:
        """Say in words which results an unfinished run has left."""
        done = [category.path.name for category in self.categories()]
        if done:
            return f"the complete categories are in {self.path}: {', '.join(done)}"
        if not self.path.exists():
            return "no category is complete, and nothing was kept"
        if self.artifacts.pipeline.is_file():
            return f"the fitted pipeline is {self.artifacts.pipeline}; resume goes on with the run"
        if self.checkpoints.is_dir() and any(self.checkpoints.iterdir()):
            return f"checkpoints are in {self.checkpoints}; resume goes on from there"
        return f"no category is complete; fitted pipelines are in {self.path}"

    def read_config(self) -> dict[str, Any]:
        return read_json(self.config)

    def read_environment(self) -> dict[str, Any]:
        return read_json(self.environment)

    def discard_if_empty(self) -> None:
        """Remove the directory of a run that produced nothing."""
        names = ("categories", "candidates", "checkpoints", "artifacts")
        folders = [self.path / name for name in names]
        if not any(folder.is_dir() and any(folder.iterdir()) for folder in folders):
            shutil.rmtree(self.path, ignore_errors=True)


class CategoryDirectory:
    """The part of a run that belongs to one category."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def is_complete(self) -> bool:
        """True if all files of the category are there."""
        return self.report.exists()

    @property
    def per_image(self) -> Path:
        return self.path / "per_image.jsonl"

    @property
    def pipeline(self) -> Path:
        return self.path / "pipeline.joblib"

    @property
    def overlays(self) -> Path:
        return self.path / "overlays"

    def create(self) -> CategoryDirectory:
        """Make the folder, empty but for a pipeline that an earlier run has left in it.

        Returns
        -------
        CategoryDirectory
            Itself.

        Raises
        ------
        FileExistsError
            If the category is complete.
        """
        if self.is_complete:
            raise FileExistsError(f"{self.path} holds a complete category, which is kept.")
        self.path.mkdir(parents=True, exist_ok=True)
        self.per_image.unlink(missing_ok=True)
        for folder in (self.overlays, self.path / "look_at"):
            if folder.exists():
                shutil.rmtree(folder)
        return self

    def discard_if_empty(self) -> None:
        """Remove what a failed or interrupted category left, unless a fitted pipeline is there."""
        if not (self.is_complete or self.pipeline.exists()):
            shutil.rmtree(self.path, ignore_errors=True)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write the last file of a category, which marks it as complete.

        Parameters
        ----------
        report : mapping
            In plain JSON types.
        """
        write_json(self.report, report)

    def writing_per_image(self) -> AbstractContextManager[Callable[[Mapping[str, Any]], Any]]:
        """Write ``per_image.jsonl`` record by record.

        Returns
        -------
        context manager
            Gives a function that takes a record. The file is there when the context ends.
        """
        return writing_json_lines(self.per_image)

    def overlay(self, rank: int, verdict: str, kind: str, role: str, name: str) -> Path:
        """Path of the ``rank``-th worst image's picture; creates the folder."""
        self.overlays.mkdir(exist_ok=True)
        parts = (f"{rank:02d}", verdict, kind, role, name)
        return self.overlays / f"{short_name('_'.join(map(_file_name, parts)))}.png"

    def look_at(self, rank: int, name: str) -> Path:
        """Path of the picture of a training image to look at; creates the folder."""
        folder = self.path / "look_at"
        folder.mkdir(exist_ok=True)
        return folder / f"{short_name(f'{rank:02d}_{_file_name(name)}')}.png"

    def read_report(self) -> dict[str, Any]:
        """Read ``report.json``; another version of its schema is a ``RunError``."""
        return _read_report(self.report)

    def read_per_image(self) -> list[dict[str, Any]]:
        return read_json_lines(self.per_image)


def _read_report(path: Path) -> dict[str, Any]:
    report = read_json(path)
    version = report.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema_version {version}, and this version of pyimgano reads "
            f"{SCHEMA_VERSION}: read it with the pyimgano that wrote it, or run it again."
        )
    return report


def _folder_name(category: str) -> str:
    """A file name that differs from those of all other categories."""
    name = _file_name(category)
    # Windows and macOS take names that differ in case, or in how accents are composed, for one.
    if name != category or unicodedata.normalize("NFC", name).casefold() != category:
        name = f"{name}_{hashlib.sha256(os.fsencode(category)).hexdigest()[:8]}"
    return short_name(name)


# Names of devices on Windows, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def _file_name(text: str) -> str:
    """A name that every file system takes: no separators, no blanks, no leading dot."""
    name = re.sub(r"[^\w.+-]+", "-", text).strip(".-_")[:80] or "unnamed"
    return f"{name}-" if _DEVICES.fullmatch(name) else name
