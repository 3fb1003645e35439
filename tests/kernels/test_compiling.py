"""Compiled code is kept in files where they can be written and read, and works where not."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import warnings

import numba
import pytest
from numba.core import caching

from pyimgano._kernels import compiling

CODE = """
from pyimgano._kernels.compiling import kernel

@kernel()
def twice(x):
    return 2 * x

@kernel()
def four_times(x):
    return 2 * twice(x)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where compiled code is kept."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(compiling, "_said", set())


@pytest.fixture
def import_anew(tmp_path):
    """A function that gives the kernels as another process would have them."""
    path = tmp_path / "module.py"
    path.write_text(CODE)

    def imported():
        spec = importlib.util.spec_from_file_location("module", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return imported


@pytest.fixture
def twice(import_anew):
    return lambda: import_anew().twice


def files(folder, suffix):
    return sorted(folder.rglob(f"*{suffix}"))


def n_compiled(kernel):
    return sum(kernel.stats.cache_misses.values())


def test_compiled_code_is_kept(folder, twice):
    first, second = twice(), twice()
    assert (first(3), second(4)) == (6, 8)
    assert (n_compiled(first), n_compiled(second)) == (1, 0)
    assert len(files(folder, ".nbc")) == 1


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("left", [0, 40])
def test_a_file_that_was_cut_short_is_made_anew(folder, twice, suffix, left):
    twice()(3)
    (path,) = files(folder, suffix)
    path.write_bytes(path.read_bytes()[:left])
    again, later = twice(), twice()
    assert again(3) == 6
    assert n_compiled(again) == 1
    assert later(3) == 6
    assert n_compiled(later) == 0


def test_a_file_that_was_cut_short_and_cannot_be_replaced_is_no_error(folder, twice, monkeypatch):
    twice()(3)
    (path,) = files(folder, ".nbi")
    path.write_bytes(b"")

    def write(self, overloads):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_index", write)
    with pytest.warns(RuntimeWarning, match=r"not permitted.*NUMBA_CACHE_DIR"):
        assert twice()(3) == 6


def test_a_full_disk_is_said_once(folder, import_anew, monkeypatch):
    def write(self, name, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", write)
    with pytest.warns(RuntimeWarning, match="No space left") as warned:
        module = import_anew()
        assert (module.twice(3), module.twice(1.5), module.four_times(3)) == (6, 3, 12)
    assert len(warned) == 1


def test_a_full_disk_is_said_and_no_error(folder, twice, monkeypatch):
    def write(self, name, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(caching.IndexDataCacheFile, "_save_data", write)
        with pytest.warns(RuntimeWarning, match=r"No space left.*NUMBA_CACHE_DIR"):
            assert twice()(3) == 6
    later = twice()  # the index names a file that is not there
    assert later(3) == 6
    assert len(files(folder, ".nbc")) == 1


def test_a_folder_that_cannot_be_read_is_no_error(folder, twice, monkeypatch):
    twice()(3)

    def read(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(caching.IndexDataCacheFile, "_load_index", read)
    with pytest.warns(RuntimeWarning, match=r"Permission denied.*NUMBA_CACHE_DIR"):
        assert twice()(3) == 6


def test_no_folder_at_all_is_said_and_no_error(twice, monkeypatch):
    locators = caching.FunctionCache._impl_class._locator_classes
    for locator in locators:  # as on a system of files that is read-only
        monkeypatch.setattr(locator, "from_function", lambda *args: None)
    with pytest.warns(RuntimeWarning, match=r"finds no folder.*NUMBA_CACHE_DIR"):
        made = twice()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(3) == 6


@pytest.mark.parametrize("n_before", [0, 1])
def test_memory_is_asked_for_once_before_a_kernel_and_what_it_calls(
    import_anew, monkeypatch, n_before
):
    """Numba would make errors of its own of what is raised when it has begun."""
    asked = []

    def mapped(*arguments):
        asked.append(arguments)
        if len(asked) > n_before:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return io.BytesIO()

    four_times = import_anew().four_times
    monkeypatch.setattr(compiling.mmap, "mmap", mapped)
    if n_before:
        assert four_times(3) == 12
    else:
        with pytest.raises(MemoryError, match=r"less than 128 MB .* free memory"):
            four_times(3)
    assert len(asked) == 1
