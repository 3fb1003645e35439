"""Reading a saved file: its bytes are summed and interpreted in one pass, then objects are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._arrays import ArrayReader
from pyimgano.persistence._building import build
from pyimgano.persistence._opcodes import read_tree
from pyimgano.persistence._source import Source
from pyimgano.utils._words import printable

__all__ = ["read_saved"]

_WHOLE_FILE = "If you trust the whole file: joblib.load(path) (pyimgano infer --trust)."


def read_saved(
    descriptor: int,
    target: Path,
    trusted: Iterable[str],
    check_entry: Callable[[dict[str, Any]], None],
    with_sha256: bool = False,
) -> Any:
    """Read what joblib wrote, provided that it holds admitted objects in a possible state.

    Parameters
    ----------
    descriptor : int
        Of the open file, at its start.
    target : Path
        Where it is, for messages.
    trusted : iterable of str
        Full names of further classes and functions to admit.
    check_entry : callable
        Gets ``"checksum"`` and ``"size"`` of the bytes that were interpreted, and raises if they
        are not those of the file that was saved. It is called before anything is made.
    with_sha256 : bool, default=False
        Whether it gets ``"sha256"`` as well.

    Returns
    -------
    object

    Raises
    ------
    UntrustedFileError
        Whatever is wrong with the file.
    """
    try:
        source, arrays = Source(descriptor, with_sha256), ArrayReader()
        try:
            tree = read_tree(source, arrays)
            entry = source.finish()
        except UntrustedFileError as error:
            source.skip_rest()
            check_entry(source.entry())  # damage is told before what came of it
            raise UntrustedFileError(
                f"is not an estimator saved by pyimgano.save: {error}"
            ) from None
        check_entry(entry)
        return build(tree, trusted, source.size, arrays.in_range)
    except UntrustedFileError as error:
        if str(error).startswith(f"{target}"):
            raise
        why = printable(str(error))  # the file may have chosen names in it
        raise UntrustedFileError(f"{target}: {why} {_WHOLE_FILE}") from error.__cause__
    except MemoryError as error:
        raise UntrustedFileError(f"{target}: there is not enough memory to read it.") from error
    except OSError as error:
        raise UntrustedFileError(f"{target}: cannot be read: {error.strerror}.") from error
