"""Saving and loading: exact, atomic, and closed to anything but estimators."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import pyimgano
from pyimgano import PatchCoreDetector, ThresholdCalibrator
from pyimgano.exceptions import UncheckedFileWarning, UntrustedFileError
from pyimgano.persistence import read_map_range

ROWS = np.random.RandomState(0).normal(size=(60, 5))


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(
        StandardScaler(), ThresholdCalibrator(PatchCoreDetector(), quantile=0.9)
    ).fit(ROWS)


class Evil:
    """Calls ``function(*args)`` when unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class OwnStep(BaseEstimator):
    pass


def save_raw(content, path, **options):
    """A file with a fitting side file, as somebody with bad intentions makes it."""
    pyimgano.save(StandardScaler(), path)
    joblib.dump(content, path, **options)
    vouch_for(path)


def vouch_for(path):
    side = path.with_name(path.name + ".json")
    about = json.loads(side.read_text())
    about.pop("checksum", None)  # as in side files of earlier versions
    side.write_text(json.dumps({**about, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))


@pytest.mark.parametrize("compress", [0, 3])
def test_both_doors_return_the_pipeline_itself(pipeline, tmp_path, compress):
    path = pyimgano.save(pipeline, tmp_path / "line3.joblib", compress=compress)
    expected = pipeline.score_samples(ROWS)
    for again in (pyimgano.load(path), pyimgano.load(str(path)), joblib.load(path)):
        assert type(again) is type(pipeline)
        np.testing.assert_array_equal(again.score_samples(ROWS), expected)
        np.testing.assert_array_equal(again.predict(ROWS), pipeline.predict(ROWS))
        assert again[-1].provenance_ == pipeline[-1].provenance_


def test_scores_are_bit_identical_in_a_new_process(pipeline, tmp_path):
    path = pyimgano.save(pipeline, tmp_path / "line3.joblib")
    np.save(tmp_path / "rows.npy", ROWS)
    code = """
        import sys, numpy as np, pyimgano
        folder = sys.argv[1]
        rows = np.load(folder + "/rows.npy")
        np.save(folder + "/scores.npy", pyimgano.load(folder + "/line3.joblib").score_samples(rows))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True)
    assert path.exists()
    scores = np.load(tmp_path / "scores.npy")
    assert scores.tobytes() == pipeline.score_samples(ROWS).tobytes()


def test_side_file_says_what_the_file_is(pipeline, tmp_path):
    path = pyimgano.save(pipeline, tmp_path / "line3.joblib")
    about = json.loads((tmp_path / "line3.joblib.json").read_text())
    assert about["size"] == path.stat().st_size
    assert about["classes"][0] == "Pipeline"
    assert {"StandardScaler", "ThresholdCalibrator", "PatchCoreDetector"} <= set(about["classes"])
    assert about["versions"]["pyimgano"] == pyimgano.__version__
    assert "previous" not in about
    assert sorted(p.name for p in tmp_path.iterdir()) == ["line3.joblib", "line3.joblib.json"]


@pytest.mark.skipif(os.name != "posix", reason="file modes and symbolic links as on POSIX")
def test_modes_and_links_are_those_of_an_ordinary_write(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    path = pyimgano.save(StandardScaler(), tmp_path / "v1.joblib")
    assert path.stat().st_mode == ordinary.stat().st_mode
    link = tmp_path / "current.joblib"
    link.symlink_to("v1.joblib")
    pyimgano.save(FunctionTransformer(), link)
    assert link.is_symlink()
    assert isinstance(pyimgano.load(link), FunctionTransformer)
    assert isinstance(pyimgano.load(path), FunctionTransformer)


def test_failed_save_leaves_the_old_file_and_no_other(tmp_path):
    path = pyimgano.save(StandardScaler(), tmp_path / "a.joblib")
    with pytest.raises((pickle.PicklingError, TypeError)):
        pyimgano.save(FunctionTransformer(func=threading.Lock()), path)
    assert isinstance(pyimgano.load(path), StandardScaler)
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_arguments_say_what_is_right(tmp_path):
    with pytest.raises(ValueError, match="compress=11 must be an integer from 0 to 9"):
        pyimgano.save(StandardScaler(), tmp_path / "a.joblib", compress=11)
    with pytest.raises(FileNotFoundError, match="this folder does not exist"):
        pyimgano.save(StandardScaler(), tmp_path / "no" / "a.joblib")
    with pytest.raises(FileNotFoundError):
        pyimgano.load(tmp_path / "a.joblib")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork and SIGKILL")
def test_kill_during_save_leaves_a_loadable_file(tmp_path):
    # In a process of its own, which has one thread and can fork without harm.
    code = """
        import itertools, os, random, signal, sys, time
        import numpy as np, pyimgano
        from sklearn.preprocessing import FunctionTransformer
        path, scaler, seen = sys.argv[1], FunctionTransformer(kw_args={}), set()
        scaler.kw_args = {"ballast": np.zeros(200_000), "n": -1}
        pyimgano.save(scaler, path)
        for _ in range(15):
            saved, tell = os.pipe()
            pid = os.fork()
            if pid == 0:
                for scaler.kw_args["n"] in itertools.count(scaler.kw_args["n"] + 1):
                    pyimgano.save(scaler, path)
                    os.write(tell, b".")
            os.read(saved, 1)
            time.sleep(random.uniform(0.0, 0.04))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            scaler.kw_args["n"] = pyimgano.load(path).kw_args["n"]
            seen.add(scaler.kw_args["n"])
            os.close(saved), os.close(tell)
        print(len(seen))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "line3.joblib")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 15


@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.UncheckedFileWarning")
def test_every_instant_of_a_save_is_consistent(tmp_path, monkeypatch, vouched):
    # The same, at the exact steps: nothing after the k-th replacement happens.
    class Killed(BaseException):
        pass

    replace = os.replace
    for last in range(3):
        folder = tmp_path / str(last)
        folder.mkdir()
        path = folder / "a.joblib"
        if vouched:
            pyimgano.save(StandardScaler(), path)
        else:  # there is a file that has no side file
            joblib.dump(StandardScaler(), path)
        done = []

        def replace_few(source, target, last=last, done=done):
            if len(done) == last:
                raise Killed
            done.append(target)
            replace(source, target)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", replace_few)
            pyimgano.save(FunctionTransformer(), path)
        expected = FunctionTransformer if last == 2 else StandardScaler
        assert isinstance(pyimgano.load(path), expected)
        # and the next save finds its way from there
        assert isinstance(pyimgano.load(pyimgano.save(OwnScaler(), path)), StandardScaler)


def test_a_failed_save_leaves_the_colors_of_the_old_pipeline(tmp_path, monkeypatch):
    replace = os.replace

    def replace_side_file_only(source, target):
        if os.fspath(target).endswith(".joblib"):
            raise PermissionError("the file is in use")
        replace(source, target)

    for name, old in {"with": (0.0, 1.0), "without": None}.items():
        path = pyimgano.save(StandardScaler(), tmp_path / f"{name}.joblib", map_range=old)
        with monkeypatch.context() as patch, pytest.raises(PermissionError, match="in use"):
            patch.setattr(os, "replace", replace_side_file_only)
            pyimgano.save(FunctionTransformer(), path, map_range=(5.0, 6.0))
        assert isinstance(pyimgano.load(path), StandardScaler)
        assert read_map_range(path) == old
        pyimgano.save(FunctionTransformer(), path, map_range=(5.0, 6.0))
        assert read_map_range(path) == (5.0, 6.0)


def test_saving_to_a_folder_touches_nothing(tmp_path):
    (tmp_path / "line3").mkdir()
    side = tmp_path / "line3.json"
    side.write_text('{"sha256": "of a pipeline named line3"}')
    with pytest.raises(IsADirectoryError, match=r"line3: is a folder; give the path of a file"):
        pyimgano.save(StandardScaler(), tmp_path / "line3")
    assert side.read_text() == '{"sha256": "of a pipeline named line3"}'
    assert sorted(one.name for one in tmp_path.iterdir()) == ["line3", "line3.json"]


@pytest.mark.parametrize("content", ['{"exposure": 3}', "[1, 2]", "{", '{"size": 3}'])
def test_a_json_file_of_something_else_is_not_replaced(tmp_path, content):
    other = tmp_path / "config.json"
    other.write_text(content)
    with pytest.raises(FileExistsError, match=r"config\.json exists and is not the side file"):
        pyimgano.save(StandardScaler(), tmp_path / "config")
    assert other.read_text() == content
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("trusted", ["mylab.steps.Deskew", [OwnStep]])
def test_trusted_is_a_sequence_of_names(tmp_path, trusted):
    path = pyimgano.save(StandardScaler(), tmp_path / "a.joblib")
    with pytest.raises(TypeError, match=r"trusted.*mylab\.steps\.Deskew"):
        pyimgano.load(path, trusted=trusted)


def OwnScaler():
    return StandardScaler(with_mean=False)


def test_damage_is_noticed(pipeline, tmp_path):
    path = pyimgano.save(pipeline, tmp_path / "a.joblib")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UntrustedFileError, match=r"is not the file that a\.joblib\.json describes"):
        pyimgano.load(path)
    path.write_bytes(content[:-100])
    with pytest.raises(UntrustedFileError, match="cut short"):
        pyimgano.load(path)
    (tmp_path / "a.joblib.json").write_text("{")
    with pytest.raises(UntrustedFileError, match="is damaged, not JSON"):
        pyimgano.load(path)


def test_a_file_without_side_file_is_loaded_with_a_warning(pipeline, tmp_path):
    path = tmp_path / "a.joblib"
    joblib.dump(pipeline, path)
    with pytest.warns(UncheckedFileWarning, match=r"no a\.joblib\.json beside it.*sha256="):
        again = pyimgano.load(path)
    np.testing.assert_array_equal(again.score_samples(ROWS), pipeline.score_samples(ROWS))
    joblib.dump(Evil(os.mkdir, str(tmp_path / "made")), path)
    with pytest.raises(UntrustedFileError, match="mkdir"):
        pyimgano.load(path)
    assert not (tmp_path / "made").exists()


def test_a_digest_that_the_caller_knows(pipeline, tmp_path):
    path = pyimgano.save(pipeline, tmp_path / "a.joblib")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "a.joblib.json").read_text())["sha256"] == digest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(pyimgano.load(path, sha256=f" {digest.upper()}\n")) is type(pipeline)
        (tmp_path / "a.joblib.json").unlink()
        assert type(pyimgano.load(path, sha256=digest)) is type(pipeline)
        with pytest.raises(UntrustedFileError, match=f"has the SHA-256 {digest}, not 0000"):
            pyimgano.load(path, sha256="0" * 64)
        with pytest.raises(ValueError, match=r"sha256='abc' must be 64 hexadecimal digits"):
            pyimgano.load(path, sha256="abc")


@pytest.mark.parametrize("drop", ["checksum", "sha256"])
def test_one_of_both_checksums_is_enough(pipeline, tmp_path, drop):
    # Side files of earlier versions have the SHA-256 alone.
    path, side = tmp_path / "a.joblib", tmp_path / "a.joblib.json"
    pyimgano.save(pipeline, path)
    about = json.loads(side.read_text())
    del about[drop]
    side.write_text(json.dumps(about))
    assert type(pyimgano.load(path)) is type(pipeline)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UntrustedFileError, match="is not the file that"):
        pyimgano.load(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x05K\x01", b"\x78\x9c damaged"])
def test_what_is_no_estimator_file_is_refused(tmp_path, content):
    path = pyimgano.save(StandardScaler(), tmp_path / "a.joblib")
    path.write_bytes(content)
    vouch_for(path)
    with pytest.raises(UntrustedFileError, match="is not an estimator saved by"):
        pyimgano.load(path)


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: np.array([x, 1], object)])
def test_code_in_a_file_does_not_run(tmp_path, wrap, compress):
    marker = tmp_path / "ran"
    path = tmp_path / "evil.joblib"
    save_raw(wrap(Evil(os.mkdir, str(marker))), path, compress=compress)
    with pytest.raises(UntrustedFileError, match=r"posix\.mkdir|nt\.mkdir"):
        pyimgano.load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "function, args",
    [
        (eval, ("1",)),
        (exec, ("1",)),
        (getattr, ("", "join")),
        (subprocess.Popen, ("true",)),
        (np.memmap, ("file", "uint8", "w+", 0, (4,))),
        (np.load, ("file",)),
        (joblib.load, ("file",)),
        (np.ndarray, ((1,), "O", b"AAAAAAAA")),
        (np.void, (b"AAAAAAAA", [("a", "O")])),
        (pyimgano.load, ("file",)),
        (__import__("sklearn.datasets").datasets.fetch_openml, ("iris",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_calls_that_are_not_of_estimators_are_refused(tmp_path, function, args):
    path = tmp_path / "evil.joblib"
    save_raw([Evil(function, *args)], path)
    with pytest.raises(UntrustedFileError, match=r"evil\.joblib: it holds"):
        pyimgano.load(path)


def pickle_of(module, name, args=b")"):
    """A pickle, protocol 4, that calls ``module.name()``."""
    strings = b"".join(
        pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, name)
    )
    return b"\x80\x04" + strings + pickle.STACK_GLOBAL + args + b"R."


@pytest.mark.parametrize(
    "module, name",
    [
        ("pyimgano.persistence._saving", "os.getcwd"),
        ("pyimgano.utils._json", "Path"),
        ("pyimgano.inputs._sequence", "os"),
        ("pyimgano.inputs._sequence", "ThreadPoolExecutor"),
        ("sklearn.base", "warnings.warn"),
        ("sklearn.utils._testing", "TempMemmap"),
        ("sklearn.no_such_module", "Thing"),
        ("numpy", "show_config"),
        ("builtins", "object.__subclasses__"),
    ],
)
def test_names_are_admitted_only_where_they_are_defined(tmp_path, module, name):
    path = pyimgano.save(StandardScaler(), tmp_path / "a.joblib")
    path.write_bytes(pickle_of(module, name))
    vouch_for(path)
    with pytest.raises(UntrustedFileError, match="which is not on the list"):
        pyimgano.load(path)


def test_classes_cannot_be_changed(tmp_path):
    path = pyimgano.save(StandardScaler(), tmp_path / "a.joblib")
    head = pickle_of("sklearn.preprocessing._data", "StandardScaler")[:-3]
    path.write_bytes(head + b"N}\x8c\x07predictK\x01s\x86b.")  # BUILD with (None, {"predict": 1})
    vouch_for(path)
    with pytest.raises(UntrustedFileError, match="tries to change what it has not just made"):
        pyimgano.load(path)
    assert not hasattr(StandardScaler, "predict")


def test_dtypes_cannot_lie(tmp_path):
    class Lie:
        def __reduce__(self):
            state = np.dtype([("a", "O")]).__reduce__()[2]
            return np.dtype, ("V8", False, True), (*state[:-1], 0)

    path = tmp_path / "a.joblib"
    save_raw([Lie()], path)
    with pytest.raises(UntrustedFileError, match="dtype"):
        pyimgano.load(path)


def test_own_classes_are_announced_and_can_be_trusted(tmp_path):
    path = tmp_path / "a.joblib"
    name = f"{OwnStep.__module__}.OwnStep"
    with pytest.warns(UserWarning, match=r"load will refuse it.*OwnStep"):
        pyimgano.save(OwnStep(), path)
    with pytest.raises(UntrustedFileError, match=r'trusted=\["'):
        pyimgano.load(path)
    assert isinstance(pyimgano.load(path, trusted=[name]), OwnStep)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a", None, {"b": 1}], dtype=object),
        np.arange(3, dtype=">i2"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.float32(1.5),
        np.dtype("float32"),
        np.float64,
        np.array(["2020-01-01", "x"]),
        {1, 2},
        frozenset("a"),
        slice(1, 2),
        1j,
        b"bytes",
        "\u00e4",
    ],
    ids=repr,
)
def test_plain_values_come_back(tmp_path, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = pyimgano.save(FunctionTransformer(kw_args={"v": value}), tmp_path / "a.joblib")
    again = pyimgano.load(path).kw_args["v"]
    assert type(again) is type(value)
    np.testing.assert_array_equal(again, value)


def test_generators_and_memory_maps_come_back(tmp_path):
    mapped = np.memmap(tmp_path / "raw", dtype=np.float32, mode="w+", shape=(3, 2))
    mapped[:] = 7
    estimator = FunctionTransformer(kw_args={"map": mapped, "rng": np.random.RandomState(3)})
    again = pyimgano.load(pyimgano.save(estimator, tmp_path / "a.joblib")).kw_args
    np.testing.assert_array_equal(again["map"], np.full((3, 2), 7, np.float32))
    assert again["rng"].randint(1000) == np.random.RandomState(3).randint(1000)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "compress",
    [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3), ("lz4", 3)],
    ids=str,
)
def test_all_that_joblib_writes_is_read(pipeline, tmp_path, protocol, compress):
    if compress and compress[0] == "lz4":
        pytest.importorskip("lz4")
    path = tmp_path / "a.joblib"
    save_raw(pipeline, path, compress=compress, protocol=protocol)
    expected = pipeline.score_samples(ROWS)
    np.testing.assert_array_equal(pyimgano.load(path).score_samples(ROWS), expected)


def test_a_path_comes_back_as_text(tmp_path):
    step = FunctionTransformer(kw_args={"path": tmp_path / "weights.pth"})
    again = pyimgano.load(pyimgano.save(step, tmp_path / "a.joblib"))
    assert again.kw_args == {"path": str(tmp_path / "weights.pth")}
