"""Verdicts as JSON lines, as a table for spreadsheets, and as a table on a terminal.

Each writer takes the records of images one by one, as
:meth:`pyimgano.inference.InferenceResult.to_dict` gives them, and writes a record
before it returns.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyimgano.cli import _common

__all__ = ["CSV_COLUMNS", "csv_file", "json_lines", "table", "verdict"]

#: Columns of the CSV file, in their order.
CSV_COLUMNS = (
    *("image", "verdict", "score", "threshold", "p_value", "error", "picture", "map", "map_error"),
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


@contextmanager
def json_lines(path: str) -> Iterator[Write]:
    """Write records as JSON lines; ``-`` is standard output."""
    from pyimgano.utils._json import json_line

    with _text_output(path) as write:
        yield lambda record: write(json_line(record))


@contextmanager
def csv_file(path: str, names: Sequence[str], *, decimal_comma: bool) -> Iterator[Write]:
    """Write records as a CSV file that spreadsheet programs open, one row per image.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard output.
    names : sequence of str
        All names of files that will be written. If one has characters other than ASCII, a file
        begins with the mark by which Excel knows UTF-8; standard output has none.
    decimal_comma : bool
        Write decimal commas, and semicolons between the cells.
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

    with _text_output(path) as write:
        marked = path != "-" and any(not name.isascii() for name in names)
        write(_BOM * marked + row(CSV_COLUMNS))

        def write_record(record: Mapping[str, Any]) -> None:
            cells = {**record, "image": record["path"], "verdict": verdict(record)}
            write(row([cells.get(column) for column in CSV_COLUMNS]))

        yield write_record


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
def _text_output(path: str) -> Iterator[Callable[[str], None]]:
    """Give a function that writes a line so that it is there when the function returns."""
    from pyimgano.utils._outputs import exclusive_write

    if path == "-":
        yield lambda line: _common.answer(line.rstrip("\r\n"))
        return
    with exclusive_write(path) as file:
        # File names that are not valid Unicode survive as escapes.
        yield lambda line: file.write(line.encode("utf-8", "backslashreplace"))
