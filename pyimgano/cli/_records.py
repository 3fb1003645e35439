"""Verdicts as JSON lines, as a table for spreadsheets, and as a table on a terminal.

Each writer takes the records of images one by one, as
:meth:`pyimgano.inference.InferenceResult.to_dict` gives them, and writes a record
before it returns.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

from pyimgano.cli import _common

__all__ = [
    "CSV_COLUMNS",
    "Log",
    "csv_file",
    "csv_table",
    "json_lines",
    "records_in",
    "table",
    "verdict",
]

#: Columns of the CSV file, in their order.
CSV_COLUMNS = (
    *("image", "verdict", "score", "threshold", "p_value", "error", "picture", "map", "map_error"),
    *("n_defects", "mask", "overlay"),
)

# What a spreadsheet takes for the beginning of a formula, also in its wide forms.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_BOM = "\ufeff"

Write = Callable[[Mapping[str, Any]], None]


def verdict(record: Mapping[str, Any]) -> str:
    """Give the verdict of a record in a word: PASS, FAIL or ERROR."""
    if "error" in record:
        return "ERROR"
    return "FAIL" if record["pred"] else "PASS"


@dataclass
class Log:
    """JSON lines that an earlier run has written, which a later one goes on with.

    Attributes
    ----------
    path : str
        The file, for messages.
    names : set of str
        Paths of the images that have a record.
    n_records, n_anomalous, n_errors : int
    last : dict or None
        The last record with a score.
    """

    path: str
    names: set[str] = field(default_factory=set)
    n_records: int = 0
    n_anomalous: int = 0
    n_errors: int = 0
    last: dict[str, Any] | None = None

    def read(self, file: BinaryIO) -> int:
        """Read the records; return how many bytes they are, up to the first that is not whole.

        Half a record at the end, which a crash has left, is not counted, and neither is the line
        that says that all are there.

        Parameters
        ----------
        file : binary file
            At its beginning.

        Returns
        -------
        int

        Raises
        ------
        UsageError
            If the file holds something else.
        """
        n_bytes = 0
        left_over: tuple[int, bytes] | None = None
        reader = io.BufferedReader(file)  # type: ignore[type-var]
        try:
            for number, line in enumerate(reader, 1):
                if left_over is not None:  # not at the end: no crash has left that
                    self._refuse(left_over[0])
                record = _as_record(line)
                if record is None:
                    left_over = number, line
                    continue
                self.take(record)
                n_bytes += len(line)
        finally:
            reader.detach()  # else it would close the file
        if left_over is not None and not _may_be_left_over(left_over[1]):
            self._refuse(left_over[0])
        return n_bytes

    def _refuse(self, number: int) -> NoReturn:
        raise _common.UsageError(
            f"{self.path}, line {number}: is no record of pyimgano infer; give the file of the run "
            "to go on with, or one that is not there yet"
        )

    def take(self, record: Mapping[str, Any]) -> None:
        """Count a record.

        Parameters
        ----------
        record : dict
        """
        self.names.add(record["path"])
        self.n_records += 1
        self.n_errors += "error" in record
        self.n_anomalous += record.get("pred", 0)
        if "score" in record:
            self.last = dict(record)


def _as_record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("path"), str):
        return None
    numbers = [record.get(name) for name in ("score", "threshold", "pred")]
    judged = all(isinstance(one, (int, float)) for one in numbers)
    return record if judged or isinstance(record.get("error"), str) else None


def _may_be_left_over(line: bytes) -> bool:
    """Tell whether a line can be half a record, or the last line of a complete run."""
    begins = any(
        line.startswith(one) or one.startswith(line) for one in (b'{"index": ', b'{"complete": ')
    )
    return begins or not line.strip(b"\0")  # zeros are what a power cut can leave


def records_in(path: str, n: int) -> Iterator[dict[str, Any]]:
    """Read the first records of a file of JSON lines.

    Parameters
    ----------
    path : str
    n : int
        Number of records.

    Yields
    ------
    dict
    """
    with open(path, "rb") as file:
        for line in itertools.islice(file, n):
            yield json.loads(line)


@contextmanager
def json_lines(path: str, log: Log | None = None, *, in_place: bool = False) -> Iterator[Write]:
    """Write records as JSON lines.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard output.
    log : Log, default=None
        Go on with the file; what it holds is read into this.
    in_place : bool, default=False
        Append to the file itself. Otherwise it takes its name when all records are written.
    """
    from pyimgano.utils._json import json_line

    with _text_output(path, None if log is None else log.read, in_place) as write:
        yield lambda record: write(json_line(record))


@contextmanager
def csv_file(
    path: str, names: Sequence[str] | None, *, decimal_comma: bool, in_place: bool = False
) -> Iterator[Write]:
    """Write records as a CSV file that spreadsheet programs open, one row per image.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard output.
    names : sequence of str or None
        All names of files that will be written. If one has characters other than ASCII, or they
        are not known yet, a file begins with the mark by which Excel knows UTF-8; standard output
        has none.
    decimal_comma : bool
        Write decimal commas, and semicolons between the cells.
    in_place : bool, default=False
        Write the file itself. Otherwise it takes its name when all records are written.
    """

    with csv_table(
        path, CSV_COLUMNS, names, decimal_comma=decimal_comma, in_place=in_place
    ) as write_row:

        def write_record(record: Mapping[str, Any]) -> None:
            cells = {**record, "image": record["path"], "verdict": verdict(record)}
            if "defects" in record:
                cells["n_defects"] = len(record["defects"])
            write_row(cells)

        yield write_record


@contextmanager
def csv_table(
    path: str,
    columns: Sequence[str],
    names: Sequence[str] | None,
    *,
    decimal_comma: bool,
    in_place: bool = False,
) -> Iterator[Write]:
    """Write rows as a CSV file that spreadsheet programs open.

    Parameters
    ----------
    path, names, decimal_comma, in_place
        As in :func:`csv_file`.
    columns : sequence of str
        Names of the columns. A row is a mapping of such names to cells, which may lack some.
    """

    def row(cells: Sequence[Any]) -> str:
        line = io.StringIO()
        csv.writer(line, delimiter=";" if decimal_comma else ",").writerow(map(_cell, cells))
        return line.getvalue()

    def _cell(value: Any) -> str:
        if isinstance(value, float):
            text = repr(value)
            return text.replace(".", ",") if decimal_comma else text
        text = "" if value is None else str(value)
        return f"'{text}" if text.startswith(_FORMULA) else text

    with _text_output(path, (lambda file: 0) if in_place else None, in_place) as write:
        not_ascii = names is None or any(not name.isascii() for name in names)
        marked = path != "-" and not_ascii
        write(_BOM * marked + row(columns))
        yield lambda cells: write(row([cells.get(column) for column in columns]))


@contextmanager
def table() -> Iterator[Write]:
    """Print records as lines of a table for people."""
    from pyimgano.utils._words import printable

    _common.answer(f"{'verdict':<7}  {'score':>10}  {'p-value':>7}  image")

    def write_record(record: Mapping[str, Any]) -> None:
        score = p_value = ""
        what = record["path"]
        if "error" in record:
            what = record["error"] if what in record["error"] else f"{what}: {record['error']}"
        else:
            score = f"{record['score']:#.4g}"
            if "p_value" in record:
                p_value = f"{record['p_value']:.3f}"
        _common.answer(f"{verdict(record):<7}  {score:>10}  {p_value:>7}  {printable(what)}")

    yield write_record


@contextmanager
def _text_output(
    path: str, keep: Callable[[BinaryIO], int] | None, in_place: bool
) -> Iterator[Callable[[str], None]]:
    """Give a function that writes a line so that it is there when the function returns."""
    from pyimgano.utils._outputs import append_write, exclusive_write

    if path == "-":
        yield lambda line: _common.answer(line.rstrip("\r\n"))
        return
    keeping = exclusive_write(path, keep=keep)
    if in_place:
        assert keep is not None
        keeping = append_write(path, keep=keep)
    with keeping as file:
        # File names that are not valid Unicode survive as escapes.
        yield lambda line: file.write(line.encode("utf-8", "backslashreplace"))
