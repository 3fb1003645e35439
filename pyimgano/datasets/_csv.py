"""Tables of images in CSV files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyimgano.exceptions import DatasetError

__all__ = ["csv_rows", "not_utf8"]


def csv_rows(
    path: Path, file: Any, check_columns: Callable[[tuple[str, ...]], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file by the numbers of their lines; one is in memory at a time.

    Parameters
    ----------
    path : Path
        Of the file, for messages.
    file : text file
        Opened with ``newline=""``.
    check_columns : callable
        Gets the names of the columns before the first row, and raises if they are wrong.

    Yields
    ------
    line : int
    row : dict of str to str
        None in place of cells that a line lacks.

    Raises
    ------
    DatasetError
        If it is not CSV, or a row has more cells than there are columns.
    """
    reader = csv.DictReader(file, strict=True)
    try:
        check_columns(tuple(reader.fieldnames or ()))
        for row in reader:
            if None in row:
                raise DatasetError(
                    f"{path}, line {reader.line_num}: has more cells than there are columns. "
                    "Quote cells that hold a comma."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(
            f"{path}, line {reader.reader.line_num}: is not CSV ({error})."
        ) from error


def not_utf8(path: Path, error: UnicodeDecodeError) -> DatasetError:
    """Make the error for a table in another encoding.

    Parameters
    ----------
    path : Path
    error : UnicodeDecodeError

    Returns
    -------
    DatasetError
    """
    return DatasetError(f"{path} is not UTF-8 ({error}): save it with that encoding.")
