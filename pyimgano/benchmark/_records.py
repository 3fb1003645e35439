"""The records of test images: written as they come, and read again when asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyimgano.utils._json import read_json_lines

__all__ = ["ImageRecords", "Verdicts"]


class ImageRecords(Mapping[str, list[dict[str, Any]]]):
    """The records of a run by category, read from their files when asked for.

    Only what was not written (``output_dir=None`` or ``save_records=False``) stays in memory.

    Attributes
    ----------
    paths : dict of str to Path
        The files of the records that were written.
    """

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self._held: dict[str, list[dict[str, Any]]] = {}

    def add(self, category: str, records: list[dict[str, Any]] | None, path: Path | None) -> None:
        """Take the records of a category.

        Parameters
        ----------
        category : str
        records : list of dict or None
            None if they were written.
        path : Path or None
            The file they were written to.
        """
        if records is not None:
            self._held[category] = records
        elif path is not None:
            self.paths[category] = path.absolute()  # the working directory may change

    def __getitem__(self, category: str) -> list[dict[str, Any]]:
        if category in self._held:
            return self._held[category]
        return read_json_lines(self.paths[category])

    def __iter__(self) -> Iterator[str]:
        return iter({**self.paths, **self._held})

    def __len__(self) -> int:
        return len(self.paths) + len(self._held)

    def __repr__(self) -> str:
        places = {**self.paths, **dict.fromkeys(self._held, "in memory")}
        return f"<ImageRecords: {', '.join(f'{k} ({v})' for k, v in places.items())}>"


class Verdicts:
    """Scores and verdicts of the test images, in columns.

    Parameters
    ----------
    write : callable
        Takes the record of each image.
    threshold : float, default=nan
        That of the pipeline, for the case that no image is judged.

    Attributes
    ----------
    n_images, n_errors : int
        All images, and those that could not be judged.
    first_error : str or None
        The error of the first of these.
    threshold : float
        That of the images that were judged.
    """

    def __init__(
        self, write: Callable[[Mapping[str, Any]], Any], threshold: float = float("nan")
    ) -> None:
        self._write = write
        self.n_images = self.n_errors = 0
        self.first_error: str | None = None
        self.threshold = threshold
        self._scores, self._truths, self._flags = array("d"), array("b"), array("b")
        self._kinds, self._with_defects = array("l"), array("b")
        self._names: dict[str, int] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record.

        Parameters
        ----------
        record : mapping
        """
        self._write(record)
        self.n_images += 1
        if "error" in record:
            self.n_errors += 1
            self.first_error = self.first_error or record["error"]
            return
        self.threshold = record["threshold"]
        self._scores.append(record["score"])
        self._truths.append({0: 1, 1: -1, None: 0}[record["y_true"]])
        self._flags.append(record["pred"])
        self._with_defects.append(bool(record.get("defects")))
        self._kinds.append(self._names.setdefault(record["kind"], len(self._names)))

    @property
    def scores(self) -> np.ndarray:
        """Anomaly scores of the images that were judged."""
        return np.array(self._scores)

    @property
    def y(self) -> np.ndarray:
        """+1 for those that are good, -1 for defective ones, 0 where it is not known."""
        return np.array(self._truths, dtype=int)

    @property
    def flagged(self) -> np.ndarray:
        """True for those judged anomalous."""
        return np.array(self._flags, dtype=bool)

    @property
    def with_defects(self) -> np.ndarray:
        """True for those in which the pipeline has found a defect."""
        return np.array(self._with_defects, dtype=bool)

    @property
    def kinds(self) -> np.ndarray:
        """Their kinds."""
        return np.array(list(self._names) or [""])[np.array(self._kinds, dtype=int)]
