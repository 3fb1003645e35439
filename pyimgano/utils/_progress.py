"""Progress bars: shown on anything that takes more than two seconds, and only where asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_callback"]


@contextmanager
def progress_callback(what: str, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Give a ``progress(done, total)`` callback that draws a bar on stderr, or None.

    Parameters
    ----------
    what : str
        Label of the bar.
    shown : bool
        Whether a bar is wanted at all.
    """
    if not shown:
        yield None
        return
    from tqdm import tqdm

    bar = tqdm(desc=what, delay=2, leave=False, dynamic_ncols=True)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        bar.close()
