"""Compiled code is kept in files where they can be written and read, and works where not."""

from __future__ import annotations

import errno
import importlib.util
import os
import warnings

import numba
import pytest
from numba.core import caching

CODE = """
from pyimgano._kernels.compiling import kernel

@kernel()
def twice(x):
    return 2 * x
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where compiled code is kept."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def twice(tmp_path):
    """A function that gives the kernel as another process would have it."""
    path = tmp_path / "module.py"
    path.write_text(CODE)

    def import_anew():
        spec = importlib.util.spec_from_file_location("module", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.twice

    return import_anew


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
    with pytest.warns(RuntimeWarning, match=r"no folder can be written to.*NUMBA_CACHE_DIR"):
        made = twice()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(3) == 6
