"""Files are written whole: at every moment, for every end that a program can come to."""

from __future__ import annotations

import ast
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import pyimgano
from pyimgano._signals import Terminated, cleaning_up_on_sigterm, raising_on_sigterm
from pyimgano.persistence import _saving
from pyimgano.utils import _outputs
from pyimgano.utils._outputs import (
    append_write,
    atomic_write,
    exclusive_write,
    is_out_of_room,
    naming_temporary_files,
    part_of,
    short_name,
)
from tests.utils.moments import before_every_line, files_of_at_most

PACKAGE = Path(pyimgano.__file__).resolve().parent
posix = pytest.mark.skipif(os.name != "posix", reason="signals, links and limits of POSIX")


# ---- at every moment ------------------------------------------------------------------
@pytest.mark.parametrize("write", [atomic_write, exclusive_write])
@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_file_holds_the_old_content_or_the_new_at_every_line(write, old, tmp_path):
    path, seen = tmp_path / "a", []
    if old is not None:
        path.write_bytes(old)
    pieces = [b"x" * 5000, b"y" * 9000]

    def look():
        seen.append(path.read_bytes() if path.exists() else None)

    with before_every_line(look, _outputs), write(path) as file:
        for piece in pieces:
            file.write(piece)
            look()
    look()
    assert set(seen) == {old, b"".join(pieces)} and len(seen) > 30
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_saved_pipeline_can_be_loaded_at_every_line_of_a_save(tmp_path):
    path, seen = tmp_path / "line3.joblib", []
    pyimgano.save(make_pipeline(StandardScaler()), path)

    def look():
        seen.append(type(pyimgano.load(path)[-1]).__name__)

    with before_every_line(look, _outputs, _saving):
        pyimgano.save(make_pipeline(FunctionTransformer()), path)
    assert set(seen) == {"StandardScaler", "FunctionTransformer"} and len(seen) > 60
    assert seen == sorted(seen, reverse=True)  # and never back


@posix
@pytest.mark.parametrize("part", [0.0, 0.001, 0.4, 0.999])
def test_a_save_on_a_full_disk_keeps_the_last_pipeline(part, tmp_path):
    path = pyimgano.save(make_pipeline(StandardScaler()), tmp_path / "line3.joblib")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    large = FunctionTransformer(kw_args={"ballast": np.zeros(50_000)})
    with files_of_at_most(int(part * 400_000)), pytest.raises(OSError) as caught:
        pyimgano.save(make_pipeline(large), path)
    assert is_out_of_room(caught.value) and str(path) in str(caught.value)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


@posix
def test_lines_are_whole_on_a_full_disk(tmp_path):
    path = tmp_path / "lines"
    path.write_text("last result\n")
    with files_of_at_most(1050), pytest.raises(OSError) as caught, exclusive_write(path) as file:
        for i in range(1000):
            file.write(b"%09d\n" % i)
    assert is_out_of_room(caught.value) and caught.value.filename == str(path)
    assert path.read_text() == "last result\n"
    assert part_of(path).read_bytes() == b"".join(b"%09d\n" % i for i in range(105))


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_calls_that_fail_leave_the_old_content(call, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_outputs.os, call, full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["a"]


# ---- signals --------------------------------------------------------------------------
@posix
def test_sigterm_cleans_up_and_then_ends_the_process(tmp_path, monkeypatch):
    path, ended = tmp_path / "a", []
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append((pid, number)))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(Terminated), atomic_write(path) as file:
        file.write(b"new")
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("was not reached")
    assert ended == [(os.getpid(), signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["a"]


@posix
@pytest.mark.parametrize("old", [None, b"old content"])
def test_sigterm_at_every_line_leaves_nothing_else(old, tmp_path, monkeypatch):
    path, results = tmp_path / "a", []
    monkeypatch.setattr(os, "kill", lambda pid, number: results.append("ended"))
    for line in range(200):
        if old is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(old)
        results, lines = [], []

        def look(line=line, lines=lines):
            lines.append(0)
            if len(lines) == line + 1 and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                signal.raise_signal(signal.SIGTERM)

        try:
            with before_every_line(look, _outputs), atomic_write(path) as file:
                file.write(b"new content")
        except Terminated:
            assert results == ["ended"]
        content = path.read_bytes() if path.exists() else None
        assert content in (old, b"new content")
        assert [one.name for one in tmp_path.iterdir()] == ["a"] * (content is not None)
        if len(lines) <= line:  # all of them have had their turn
            assert content == b"new content" and line > 30
            return
    raise AssertionError("the loop ended too early")


@posix
def test_a_program_that_handles_sigterm_is_left_alone():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with cleaning_up_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


@posix
def test_a_block_that_was_left_and_ends_late_takes_no_handler_away():
    before = signal.getsignal(signal.SIGTERM)

    def left():
        with raising_on_sigterm():
            yield

    generator = left()
    next(generator)
    signal.signal(signal.SIGTERM, before)  # as a test or program does that cleans up
    with pytest.raises(Terminated), raising_on_sigterm():
        handler = signal.getsignal(signal.SIGTERM)
        generator.close()  # as the collection of garbage does
        assert signal.getsignal(signal.SIGTERM) is handler
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@posix
def test_sigterm_in_a_save_leaves_the_last_pipeline_and_nothing_else(tmp_path):
    pyimgano.save(StandardScaler(), tmp_path / "line3.joblib")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    code = (
        "import os, signal, sys, pyimgano\n"
        "from sklearn.preprocessing import FunctionTransformer\n"
        "class Slow(FunctionTransformer):\n"
        "    def __getstate__(self):\n"
        "        assert os.path.exists(sys.argv[1] + '.part')\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return {}\n"
        "pyimgano.save(Slow(), sys.argv[1])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "line3.joblib")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGTERM and done.stderr == ""
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


# ---- other writers, leftovers, links --------------------------------------------------
def test_writers_of_one_file_wait_for_one_another(tmp_path):
    path = tmp_path / "a"

    def write(i):
        for _ in range(5):
            with atomic_write(path, durable=False) as file:
                file.write(b"%d" % i * 10_000)
                file.flush()
                file.write(b"%d" % i * 10_000)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    assert len(content) == 20_000 and len(set(content)) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_leftover_is_taken_over(tmp_path):
    path = tmp_path / "a"
    part_of(path).write_bytes(b"left by a run that was killed")
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and not part_of(path).exists()


@posix
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
@pytest.mark.parametrize("write", [atomic_write, exclusive_write])
def test_nothing_is_written_through_a_part_that_is_something_else(kind, write, tmp_path):
    other, path = tmp_path / "other", tmp_path / "a"
    other.write_bytes(b"somebody's")
    if kind == "link":
        part_of(path).symlink_to(other)
    elif kind == "hard link":
        os.link(other, part_of(path))
    else:
        os.mkfifo(part_of(path))
    with pytest.raises(OSError, match="remove it") as caught, write(path):
        raise AssertionError("was not reached")
    assert caught.value.filename == str(part_of(path))
    assert other.read_bytes() == b"somebody's" and not path.exists()


@posix
def test_a_link_under_the_final_name_is_replaced(tmp_path):
    other, path = tmp_path / "other", tmp_path / "a"
    other.write_bytes(b"somebody's")
    path.symlink_to(other)
    with atomic_write(path) as file:
        file.write(b"new")
    assert other.read_bytes() == b"somebody's"
    assert not path.is_symlink() and path.read_bytes() == b"new"


@posix
def test_files_may_be_read_by_those_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@posix
@pytest.mark.parametrize("write", [atomic_write, exclusive_write])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o440])
def test_a_replaced_file_keeps_its_permissions(mode, write, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    with write(path) as file:
        file.write(b"new")
        # Nobody reads the new content who could not read the old one.
        assert stat.S_IMODE(part_of(path).stat().st_mode) == mode | 0o600
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


@posix
def test_a_link_that_is_replaced_lends_no_permissions(tmp_path):
    (tmp_path / "other").write_bytes(b"somebody's")
    (tmp_path / "other").chmod(0o600)
    (tmp_path / "a").symlink_to(tmp_path / "other")
    before = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive_write(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


# ---- names ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a", "x" * 250, "x" * 251, "\u6728" * 85])
def test_names_of_any_length_are_written_to(name, tmp_path):
    path = tmp_path / name
    try:
        path.touch()
    except OSError:
        pytest.skip("no such long names here")
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


def test_short_names_differ_where_long_ones_do():
    names = [f"part/{'x' * 300}{i}.png" for i in range(50)] + [f"{'x' * 300}/{i}" for i in range(9)]
    short = [short_name(name) for name in names]
    assert len(set(short)) == len(names)
    assert max(len(part) for name in short for part in Path(name).parts) <= 200
    assert short_name("a/b.png") == os.path.join("a", "b.png")


# ---- temporary files ------------------------------------------------------------------
def test_a_full_folder_of_temporary_files_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError) as caught, naming_temporary_files("the parts", 3 * 2**30):
        raise OSError(errno.ENOSPC, "No space left on device")
    for text in ("No space left", "the parts", "3.0 GiB so far", str(tmp_path), "TMPDIR"):
        assert text in str(caught.value)
    with pytest.raises(PermissionError), naming_temporary_files("the parts", 1):
        raise PermissionError


# ---- one writer -----------------------------------------------------------------------
# Functions that write a file, and modules that may call them: images for checks of others'
# detectors are written to temporary folders.
_WRITERS = {
    *("write_text", "write_bytes", "imwrite", "savefig", "to_csv", "tofile", "savez", "savetxt"),
    *("replace", "rename", "renames", "mkstemp", "NamedTemporaryFile", "copyfile", "copy2", "move"),
}
_MAY = {"utils/_outputs.py", "testing/_image_checks.py"}


def test_nothing_in_the_package_writes_a_file_but_the_writer():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in _MAY:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _writes(node):
                found.append(f"{name}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not found, "\n".join(found)


def _writes(call):
    called = call.func.attr if isinstance(call.func, ast.Attribute) else None
    if called == "savefig":  # into a file that the writer has opened, which has no name
        return not (isinstance(call.args[0], ast.Name) and call.args[0].id == "file")
    if called in _WRITERS:
        of_os = isinstance(call.func.value, ast.Name) and call.func.value.id in ("os", "shutil")
        return of_os or called not in ("replace", "rename")  # of strings and tables
    plain = isinstance(call.func, ast.Name) and call.func.id == "open"
    if not (plain or called == "open"):
        return False
    modes = [one.value for one in call.args[1:2] if isinstance(one, ast.Constant)]
    modes += [one.value.value for one in call.keywords if one.arg == "mode"]
    return any(isinstance(mode, str) and set("wax+") & set(mode) for mode in modes)


# ---- logs --------------------------------------------------------------------------------
def whole_lines(file):
    return file.read().rfind(b"\n") + 1


def test_a_log_is_appended_to_under_its_own_name_after_its_last_whole_line(tmp_path):
    path = tmp_path / "log"
    for i, text in enumerate((b"1\n", b"1\n2\n")):
        with append_write(path, keep=whole_lines, sync_seconds=0) as log:
            log.write(f"{i + 1}\n".encode())
            assert path.read_bytes() == text  # at once
            with pytest.raises(BlockingIOError), append_write(path, keep=whole_lines):
                pass
        with open(path, "ab") as file:
            file.write(b"half")
    with append_write(path, keep=whole_lines) as log:
        assert (path.read_bytes(), log.n_bytes) == (b"1\n2\n", 4)


def test_lines_are_gone_on_with_from_the_part_or_the_result(tmp_path):
    path, part = tmp_path / "lines", tmp_path / "lines.part"
    path.write_bytes(b"1\n2\n")
    with pytest.raises(ZeroDivisionError), exclusive_write(path, keep=whole_lines) as lines:
        lines.write(b"3\n")
        raise ZeroDivisionError
    assert (path.read_bytes(), part.read_bytes()) == (b"1\n2\n", b"1\n2\n3\n")

    def refuse(file):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), exclusive_write(path, keep=refuse):
        pass
    assert part.read_bytes() == b"1\n2\n3\n"  # it is what there is
    part.write_bytes(b"1\n2\n3\nhalf")
    with exclusive_write(path, keep=whole_lines) as lines:
        lines.write(b"4\n")
    assert path.read_bytes() == b"1\n2\n3\n4\n" and not part.exists()
