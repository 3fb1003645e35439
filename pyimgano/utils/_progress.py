"""Progress bars: shown on anything that takes more than two seconds, and only where asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

__all__ = ["progress_callback"]

# Seconds until a bar appears, and after which it is drawn again if nothing has been reported.
_DELAY = 2.0
_TICK = 1.0


@contextmanager
def progress_callback(what: str, shown: bool) -> Iterator[Callable[..., None] | None]:
    """Give a ``progress(done, total, note="")`` callback that draws a bar on stderr, or None.

    The bar appears after two seconds, also where nothing has been reported by then: it shows
    what is being done and for how long.

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

    bar = tqdm(
        desc=what,
        bar_format="{desc} [{elapsed}]",  # as long as nothing is known
        delay=_DELAY,
        leave=False,
        dynamic_ncols=True,
    )
    over = Event()

    def keep_drawn() -> None:
        seconds = _DELAY
        while not over.wait(seconds):
            bar.delay = 0  # from now on it is there, to be cleared when all is done
            bar.refresh()
            seconds = _TICK

    def progress(done: int, total: int, note: str = "") -> None:
        bar.bar_format, bar.total = None, total
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)

    ticker = Thread(target=keep_drawn, name="pyimgano-progress", daemon=True)
    ticker.start()
    try:
        yield progress
    finally:
        over.set()
        ticker.join()
        bar.close()
