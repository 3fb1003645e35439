"""Writing files whole: everything that this package writes is written here.

A file is written under the name ``<name>.part``, reaches the disk, and then takes the place of
``<name>`` in one step. So a final name holds the old content or the new one, whatever ends the
program: an error, Ctrl-C, SIGTERM, ``kill -9``, a full disk or a power cut. The permissions of a
file that is replaced are kept. A ``.part`` that was left behind is no result; the next writer of
the file takes it over.

A log, which grows for as long as a program runs and is read meanwhile, is the exception: it is
appended to under its own name, a line at a time (:func:`append_write`).

A directory needs no more than that: each of its files is whole, and one that is written last
says that all are there (``report.json``, see :mod:`pyimgano.benchmark._run_dir`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pyimgano._signals import cleaning_up_on_sigterm

__all__ = [
    "PieceWriter",
    "append_write",
    "atomic_folder",
    "atomic_write",
    "exclusive_folder",
    "exclusive_write",
    "is_out_of_room",
    "naming_temporary_files",
    "part_of",
    "short_name",
]

_POSIX = os.name == "posix"

# Errors of the system by which nothing more can be written, wherever they come.
_OUT_OF_ROOM = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO")
    if hasattr(errno, name)
)
# File systems of networks that know no locks.
_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))
# Folders that cannot be synchronized: one may write in them but not list them, or their file
# system has no such thing.
_NO_SYNC = frozenset((errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS))

# Bytes of a name. A file system takes 255; the shorter leaves room for endings.
_LONGEST_NAME, _LONG_NAME = 255, 200


def is_out_of_room(error: BaseException) -> bool:
    """Tell whether an error says that nothing more can be written.

    Parameters
    ----------
    error : exception

    Returns
    -------
    bool
        True for a full or failing disk, a quota, a limit of the size of files.
    """
    return isinstance(error, OSError) and error.errno in _OUT_OF_ROOM


# ---- names ----------------------------------------------------------------------------
def short_name(name: str) -> str:
    """Shorten the parts of a relative path that are too long for names of files made from it.

    Parameters
    ----------
    name : str
        Relative path.

    Returns
    -------
    str
        The same where every part is short; else with a digest in place of the end of a part, so
        that different names stay different.
    """
    return os.path.join(*map(_short, Path(name).parts))


def part_of(path: str | os.PathLike[str]) -> Path:
    """Path under which a file is written before it takes its own name.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Path
        ``<path>.part``, with a shorter name where that is too long.
    """
    path = Path(path)
    name = path.name
    if len(os.fsencode(name)) + len(".part") > _LONGEST_NAME:
        name = _short(name)
    return path.with_name(f"{name}.part")


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONG_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    kept = encoded[: _LONG_NAME - 17].decode(errors="ignore")
    return f"{kept}~{digest}"


# ---- writing --------------------------------------------------------------------------
@contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file so that ``path`` holds the old content or the new, never a part of it.

    After an error, Ctrl-C or SIGTERM nothing of the new content stays. Writers of the same file
    wait for one another.

    Parameters
    ----------
    path : str or Path
        The file to create or to replace. Its folder must exist. A symbolic link is replaced, not
        followed.
    durable : bool, default=True
        Wait until the content is on the disk. Give False for files that can be generated
        again at any time, such as synthetic images.

    Yields
    ------
    binary file, open for reading and writing
    """
    with cleaning_up_on_sigterm(), _part_file(Path(path), wait=True, durable=durable) as part:
        yield part.file


#: Reads a binary file from its beginning and returns how many bytes of it are to be kept.
Keep = Callable[[BinaryIO], int]


@contextmanager
def exclusive_write(
    path: str | os.PathLike[str], *, keep: Keep | None = None
) -> Iterator[PieceWriter]:
    """Write lines over a long time: ``path`` keeps its old content until all are written.

    After an error or an interrupt the ``.part`` stays with the lines that are done, so that they
    can be looked at; the next writer begins it anew, or goes on with it.

    Parameters
    ----------
    path : str or Path
        The file to create or to replace. Its folder must exist. A symbolic link is replaced, not
        followed.
    keep : callable, default=None
        Go on with the ``.part``, or, where there is none, with a copy of the file:
        ``keep(file) -> n_bytes`` says how much of its content is good, and the rest is cut off.
        None begins anew.

    Yields
    ------
    PieceWriter

    Raises
    ------
    BlockingIOError
        If another process is writing the same file.
    """
    with _part_file(Path(path), wait=False, durable=True, kept=keep is not None) as part:
        part.lines = PieceWriter(part.file, 0 if keep is None else _cut(part.file, keep))
        yield part.lines


@contextmanager
def append_write(
    path: str | os.PathLike[str], *, keep: Keep, sync_seconds: float = 1.0
) -> Iterator[PieceWriter]:
    """Append lines to a log, which other programs may read while it grows.

    When ``write`` returns, the line survives the end of this program, whatever ends it. A power
    cut can take what was written in the last ``sync_seconds``, and leave half a line.

    Parameters
    ----------
    path : str or Path
        The file to append to, or to create. Its folder must exist. A symbolic link is an error.
    keep : callable
        ``keep(file) -> n_bytes`` says how much of the content is good. The rest is cut off.
    sync_seconds : float, default=1.0
        Least time between two waits for the disk.

    Yields
    ------
    PieceWriter

    Raises
    ------
    BlockingIOError
        If another process is writing the same file.
    """
    path = Path(path)
    try:
        with _open_alone(path, wait=False, kept=True) as file:
            lines = PieceWriter(file, _cut(file, keep), sync_seconds)
            _sync_folder(path.parent)
            yield lines
            os.fsync(file.fileno())
    except OSError as error:
        _raise_named(path, error)
        raise


def _cut(file: Any, keep: Keep) -> int:
    """Cut off what is not to be kept of a file; return what is, in bytes."""
    file.seek(0)
    n_bytes = keep(file)
    file.seek(n_bytes)
    file.truncate()
    return n_bytes


class PieceWriter:
    """A file that takes pieces whole: each is there when ``write`` returns, or not at all.

    Parameters
    ----------
    file : binary file
        Not buffered, and at its end.
    n_bytes : int, default=0
        Size of the file.
    sync_seconds : float, default=None
        Wait for the disk after a piece if that long has passed since the last time. None leaves
        it to the caller.

    Attributes
    ----------
    n_bytes : int
        Size of the file.
    n_kept : int
        Size that it had before anything was written.
    """

    def __init__(self, file: Any, n_bytes: int = 0, sync_seconds: float | None = None) -> None:
        self._file = file
        self.n_bytes = self.n_kept = n_bytes
        self._sync_seconds = sync_seconds
        self._synced = time.monotonic()

    def write(self, piece: bytes) -> None:
        """Write a piece, such as a line.

        Parameters
        ----------
        piece : bytes
        """
        rest = memoryview(piece)
        try:
            while rest:  # a write may take a part of what it is given
                rest = rest[self._file.write(rest) :]
        except BaseException:  # the disk is full, or Ctrl-C: half a piece is none
            with suppress(OSError):  # the first error is the one to be told
                self._file.seek(self.n_bytes)
                self._file.truncate()
            raise
        self.n_bytes += len(piece)
        self._sync_now_and_then()

    def clear(self) -> None:
        """Remove all that was written and kept."""
        self._file.seek(0)
        self._file.truncate()
        self.n_bytes = self.n_kept = 0

    def _sync_now_and_then(self) -> None:
        if self._sync_seconds is not None:
            now = time.monotonic()
            if now - self._synced >= self._sync_seconds:
                os.fsync(self._file.fileno())
                self._synced = now


class _PartFile:
    """A ``.part``, which no other writer has once it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = part_of(path)
        self.file: Any = None
        self.mode: int | None = None  # of the file that is replaced
        self.lines: PieceWriter | None = None
        self.is_continued = False

    def open(self, wait: bool, kept: bool) -> None:
        """Open the file, which is from then on readable to those who could read the old one."""
        self.file = _open_alone(self.part, wait, kept)
        self.is_continued = kept and os.fstat(self.file.fileno()).st_size > 0
        if kept and not self.is_continued and os.path.isfile(self.path):
            with open(self.path, "rb") as old:
                shutil.copyfileobj(old, self.file)
        self.mode = _mode_of(self.path)
        # The owner can always read and write a .part, which a later writer may have to take over.
        self._allow(0o600)

    def publish(self, durable: bool) -> None:
        """Give the file its own name."""
        self.file.flush()
        self._allow(0)
        if durable:
            os.fsync(self.file.fileno())
        if not _POSIX:  # Windows does not rename an open file
            self.file.close()
        os.replace(self.part, self.path)  # with the lock held: no writer comes between
        if durable:
            _sync_folder(self.path.parent)

    def _allow(self, more: int) -> None:
        """Give the file the permissions of the one it replaces, and some more."""
        if self.mode is None or not _POSIX:
            return
        handle = self.file.fileno()
        wanted = self.mode | more
        # Some file systems have no permissions to change; there both files have the same.
        if stat.S_IMODE(os.fstat(handle).st_mode) != wanted:
            os.fchmod(handle, wanted)

    def abandon(self) -> None:
        """Remove the file, unless it holds lines that are nowhere else."""
        lines = self.lines
        # What was kept, unless it was this file before, is a copy of the file that stays.
        if self.is_continued or (lines is not None and lines.n_bytes > lines.n_kept):
            return
        if self.file is None:
            _remove_if_new(self.part)
        elif _POSIX:
            if _is_at(self.file.fileno(), self.part):
                os.unlink(self.part)
        else:  # Windows does not remove an open file
            self.close()
            with suppress(FileNotFoundError):
                os.unlink(self.part)

    def close(self) -> None:
        # What a buffer still holds has no place on a full disk.
        with suppress(OSError):
            if self.file is not None:
                self.file.close()


@contextmanager
def _part_file(path: Path, wait: bool, durable: bool, kept: bool = False) -> Iterator[_PartFile]:
    part = _PartFile(path)
    try:
        part.open(wait, kept)
        yield part
        part.publish(durable)
    except BaseException as error:  # Ctrl-C as well
        part.abandon()
        _raise_named(path, error)
        raise
    finally:
        part.close()


def _raise_named(path: Path, error: BaseException) -> None:
    """Name the file in the error of a full disk, where the system does not."""
    if isinstance(error, OSError) and is_out_of_room(error) and error.filename is None:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder so that ``path`` is there with all its files, or not at all.

    Parameters
    ----------
    path : str or Path
        The folder to create. The folder that it lies in must exist.

    Yields
    ------
    Path
        A new folder beside it to write into, ``<path>.part`` or with a number, which then gets the
        name asked for. It is removed after an error, Ctrl-C or SIGTERM. One that a killed process
        has left stays: a folder of that name may be somebody's.

    Raises
    ------
    FileExistsError
        If ``path`` exists, unless it is an empty folder.
    """
    path = Path(path)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, "this exists; give another name", str(path))
    with cleaning_up_on_sigterm():
        part = _new_folder(path)
        try:
            yield part
            _sync_folder(part)
            if path.is_dir():  # Windows renames to no existing folder
                path.rmdir()
            os.rename(part, path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    _sync_folder(path.parent)


def _new_folder(path: Path) -> Path:
    number = 1
    while True:
        part = part_of(path if number == 1 else path.with_name(f"{path.name}.{number}"))
        try:
            part.mkdir()
        except FileExistsError:
            number += 1
            continue
        return part


@contextmanager
def exclusive_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder.

    Where the system knows no locks of folders, nobody is kept out.

    Parameters
    ----------
    path : str or Path
        A folder that exists.

    Raises
    ------
    BlockingIOError
        If another process has it.
    """
    if not _POSIX:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        if not _lock(handle, wait=False):
            raise BlockingIOError(errno.EAGAIN, "another run is writing in this folder", str(path))
        yield
    finally:
        os.close(handle)


def _mode_of(path: Path) -> int | None:
    """Permissions of a regular file; None if there is none."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    return mode & 0o777 if stat.S_ISREG(mode) else None


def _open_alone(part: Path, wait: bool, kept: bool = False) -> Any:
    """Open a file that no other writer has, and empty it unless it is kept."""
    while True:
        handle = _open(part)
        file = open(handle, "r+b", buffering=-1 if wait else 0)  # noqa: SIM115
        try:
            if _lock(handle, wait) and _is_at(handle, part):
                if not kept:
                    file.truncate(0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        if not wait:
            raise BlockingIOError(errno.EAGAIN, "another run is writing this file", str(part))


def _remove_if_new(part: Path) -> None:
    """Remove an empty file that was left where a signal came right after it had been made."""
    with suppress(OSError):
        handle = _open(part, create=False)
        try:
            if _lock(handle, wait=False) and not os.fstat(handle).st_size and _is_at(handle, part):
                os.unlink(part)
        finally:
            os.close(handle)


def _open(part: Path, create: bool = True) -> int:
    if os.path.islink(part):
        raise OSError(errno.ELOOP, "is a link, which is not followed; remove it", str(part))
    flags = os.O_RDWR | (os.O_CREAT if create else 0)
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not on every system
        flags |= getattr(os, name, 0)
    handle = os.open(part, flags, 0o666)
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(handle)
        what = "a file with several names" if stat.S_ISREG(about.st_mode) else "no regular file"
        raise OSError(errno.EEXIST, f"is {what} and is not written to; remove it", str(part))
    return handle


def _is_at(handle: int, part: Path) -> bool:
    """Tell whether a file still has its name, or another writer has just published it."""
    try:
        return not _POSIX or os.path.samestat(os.fstat(handle), os.lstat(part))
    except FileNotFoundError:
        return False


def _lock(handle: int, wait: bool) -> bool:
    """Lock a file; False if another process has it and waiting is not wanted."""
    if _POSIX:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True
    import msvcrt

    mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined]
    try:
        msvcrt.locking(handle, mode, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut; Windows has no such call and needs none."""
    if not _POSIX:
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


# ---- temporary files ------------------------------------------------------------------
@contextmanager
def naming_temporary_files(what: str, n_bytes: int) -> Iterator[None]:
    """Say in the error of a full folder of temporary files which it is and how much was needed.

    Parameters
    ----------
    what : str
        Content of the file, such as "the training patches".
    n_bytes : int
        Its size as far as it is known.
    """
    try:
        yield
    except OSError as error:
        if not is_out_of_room(error):
            raise
        import tempfile

        size = f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**29 else f"{n_bytes / 2**20:.1f} MiB"
        raise OSError(
            error.errno,
            f"{error.strerror}: while fitting, {what} are kept in a temporary file, {size} so "
            f"far, in {tempfile.gettempdir()}. Set the environment variable TMPDIR to a folder "
            "with more room",
        ) from error
