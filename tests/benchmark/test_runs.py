"""Runs of several categories: which, how many images, side by side, interrupted and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

from pyimgano import PatchCoreDetector, run_benchmark
from pyimgano.benchmark import RunDirectory, _category, json_schema
from pyimgano.benchmark._pipelines import describe
from pyimgano.benchmark._run_dir import SCHEMA_VERSION
from pyimgano.benchmark._split import InputNames, fingerprint, limited
from pyimgano.cli import benchmark
from pyimgano.datasets import load_dataset, write_inspection_dataset
from pyimgano.exceptions import DatasetError, RunError
from pyimgano.features import FilterBankFeatures
from pyimgano.utils._environment import git_state
from tests.datasets import layouts

pytestmark = pytest.mark.usefixtures("short_runs")

NAMES = ["brushed_metal", "terrazzo", "wood"]
MODEL = PatchCoreDetector(FilterBankFeatures(resize=32), coreset_ratio=0.02)
# Other processes know nothing of the tests' short cuts: comparisons with them are of this model,
# and of `whole_runs`.
NOT_CUT_SHORT = "vision_pixel_mad"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write_inspection_dataset(
            root, name, random_state=0, n_train=10, n_test_good=4, n_test_defect=6, size=64
        )
    return root


def run(root, tmp_path, **arguments):
    arguments = {"model": MODEL, "quantile": 0.9, "n_overlays": 1, **arguments}
    return run_benchmark("folder", root=root, output_dir=tmp_path / "runs", **arguments)


def files_of(path, whole=False):
    """The files of a run: JSON without times unless it is to be whole, fingerprints of pictures."""
    found = {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*.png")
        if not whole
    }
    for file in sorted(path.rglob("*.json*")):
        if ".joblib" not in file.name:
            text = file.read_text()
            content = (
                [json.loads(line) for line in text.splitlines()]
                if (file.suffix == ".jsonl")
                else json.loads(text)
            )
            if isinstance(content, dict) and not whole:
                content.pop("times", None)
                content.pop("blas", None)  # another test may load a library meanwhile
            found[file.relative_to(path).as_posix()] = content
    return found


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    return run(root, tmp_path_factory.mktemp("whole"))


# ---- which categories -------------------------------------------------------------------
def test_all_is_every_category(root, undisturbed, tmp_path):
    assert list(undisturbed.categories) == NAMES
    result = run(root, tmp_path, category="all")
    assert files_of(result.path) == files_of(undisturbed.path)
    result = run(root, tmp_path, category=["wood", "terrazzo"])
    assert list(result.categories) == ["wood", "terrazzo"]


def test_all_of_the_synthetic_ones(tmp_path):
    options = {"n_train": 4, "n_test_good": 1, "n_test_defect": 1, "size": 64}
    result = run_benchmark(
        category="all", model=MODEL, quantile=0.5, output_dir=None, dataset_options=options
    )
    assert len(result.categories) == 9 and result.report["failed"] == {}


def test_a_category_that_cannot_be_opened_fails_alone(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    stray = data / "terrazzo" / "ground_truth" / "no_such_kind"
    shutil.copytree(next((data / "terrazzo" / "ground_truth").iterdir()), stray)
    result = run(data, tmp_path)
    assert list(result.categories) == ["brushed_metal", "wood"]
    reason = result.report["failed"]["terrazzo"]
    assert reason.startswith("DatasetError: terrazzo/ground_truth/no_such_kind holds masks")
    with pytest.raises(DatasetError, match="no_such_kind holds masks"):
        run(data, tmp_path, category="terrazzo")


# ---- how many images --------------------------------------------------------------------
def test_limits_take_of_each_kind(root, tmp_path):
    whole = load_dataset("folder", root, category="wood").to_bunch()
    result = run(root, tmp_path, category="wood", limit_train=7, limit_test=6)
    report, records = result.categories["wood"], result.records["wood"]
    assert (report["n_train"], len(records)) == (7, 6)
    assert {r["kind"] for r in records} == set(whole.kinds_test)
    inputs = [r["input"] for r in records]
    every = [Path(path).relative_to(root / "wood").as_posix() for path in whole.X_test.paths]
    assert [one for one in every if one in inputs] == inputs  # in their order
    assert report["split"] != fingerprint(whole)
    again = run(root, tmp_path, category="wood", limit_train=7, limit_test=6)
    assert again.records == result.records
    other = run(root, tmp_path, category="wood", limit_train=7, limit_test=6, random_state=1)
    assert [r["input"] for r in other.records["wood"]] != inputs


@pytest.mark.parametrize("limit", [3, 4, 17, 59, 60, 200])
def test_kinds_keep_their_shares(limit):
    counts = {"good": 30, "crack": 29, "hole": 1}
    kinds = [kind for kind, n in counts.items() for _ in range(n)]
    y = np.where(np.array(kinds) == "good", 1, -1)
    data = Bunch(X_train=["a"], y_train=[1], X_test=np.arange(60), y_test=y)
    data.update(masks_test=list(range(60)), kinds_test=kinds)
    some = limited(data, None, limit, 0)
    taken = Counter(some.kinds_test)
    assert sum(taken.values()) == len(some.X_test) == min(limit, 60)
    assert taken["hole"] == 1
    assert abs(taken["good"] - taken["crack"]) <= 1
    assert some.masks_test == some.X_test.tolist() == sorted(some.masks_test)
    assert some.y_test.tolist() == y[some.masks_test].tolist()
    assert taken["good"] < limit or limit >= 60  # not the first ones


def test_defective_training_images_do_not_count_as_good():
    y = np.array([1, -1, 1, 1, -1, 1])
    data = Bunch(X_train=np.arange(6), y_train=y, X_test=[0], y_test=[1])
    data.update(masks_test=[0], kinds_test=["good"])
    some = limited(data, 3, None, 0)
    assert some.y_train.tolist() == [1, 1, 1] and set(some.X_train) <= {0, 2, 3, 5}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"limit_test": 1}, "limit_test=1 is less than the . kinds of test images"),
        ({"limit_test": 0}, "limit_test=0 must be a number of images"),
        ({"limit_train": 1.5}, "limit_train=1.5 must be a number of images"),
        ({"resume": True, "output_dir": None}, "resume=True looks for a run in output_dir"),
        ({"resume": "nowhere"}, "resume='nowhere' is no run directory"),
    ],
)
def test_arguments_that_cannot_be_followed_are_refused(root, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_benchmark(
            "folder", root=root, model=MODEL, **{"output_dir": tmp_path / "runs", **arguments}
        )
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


# ---- side by side -----------------------------------------------------------------------
@pytest.mark.usefixtures("whole_runs")
def test_two_processes_write_what_one_writes(root, tmp_path):
    one, two = (
        run(root, tmp_path, category=NAMES[:2], n_jobs=n_jobs, model=NOT_CUT_SHORT)
        for n_jobs in (1, 2)
    )
    assert files_of(two.path) == files_of(one.path)
    assert two.records == one.records
    assert list(two.pipelines.paths) == NAMES[:2]


def test_an_address_that_is_no_scheduler_is_refused(capsys):
    pytest.importorskip("distributed")
    command = ["--dataset", "synthetic", "--no-save-run", "--model", "industrial-fast-filterbank"]
    address = ["--joblib-backend", "dask", "--dask-scheduler", "nowhere"]
    assert benchmark.main([*command, *address]) == 2
    message = "--dask-scheduler nowhere: missing port number in address 'nowhere'; give the address"
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("whole_runs")
def test_workers_of_a_cluster_write_what_one_process_writes(root, tmp_path):
    distributed = pytest.importorskip("distributed")
    command = ["--dataset", "folder", "--root", root, "--category", *NAMES[:2]]
    command += ["--model", NOT_CUT_SHORT, "--quantile", 0.9, "--overlays", 1]
    one, two = tmp_path / "one", tmp_path / "two"
    limits = mock.patch.dict(os.environ)  # the cluster leaves variables that limit threads behind
    with (
        limits,
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
    ):
        address = ["--joblib-backend", "dask", "--dask-scheduler", cluster.scheduler_address]
        for options in (["--output-dir", one], ["--output-dir", two, *address]):
            assert benchmark.main([str(x) for x in [*command, *options]]) == 0
    (one,), (two,) = one.iterdir(), two.iterdir()
    assert files_of(one) == files_of(two)
    assert {file.rpartition(".")[2] for file in files_of(one)} == {"json", "jsonl", "png"}


def test_failures_and_warnings_of_other_processes_arrive(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    next((data / "terrazzo" / "train" / "good").iterdir()).write_bytes(b"junk")
    next((data / "wood" / "ground_truth").rglob("*.png")).write_bytes(b"junk")
    with pytest.warns(UserWarning, match="wood: 1 test images are left out of the pixel metrics"):
        result = run(data, tmp_path, n_jobs=2, model=NOT_CUT_SHORT)
    assert list(result.categories) == ["brushed_metal", "wood"]
    assert result.report["failed"]["terrazzo"].startswith("ImageReadError: train/good/")


def test_pipelines_that_are_not_saved_come_back(root, tmp_path):
    result = run(root, tmp_path, n_jobs=2, save_pipeline=False, model=NOT_CUT_SHORT)
    assert list(result.pipelines) == NAMES and result.pipelines.paths == {}
    images = load_dataset("folder", root, category="wood").images("test")
    scores = [-record["score"] for record in result.records["wood"]]
    assert result.pipelines["wood"].score_samples(images).tolist() == scores


# ---- what is written --------------------------------------------------------------------
def test_nothing_that_is_written_names_the_machine(root, undisturbed, tmp_path, monkeypatch):
    provenance = {"step": f"Step(weights={str(tmp_path / 'weights.pth')!r})"}
    real = _category.fit

    def from_elsewhere(pipeline, data, *more):
        watch = real(pipeline, data, *more)
        pipeline[-1].provenance_.update(provenance)
        return watch

    monkeypatch.setattr(_category, "fit", from_elsewhere)
    result = run(root, tmp_path, category="wood", save_pipeline=False)
    assert result.categories["wood"]["threshold"]["step"] == "Step(weights='weights.pth')"
    for path in (undisturbed.path, result.path):
        for file in path.rglob("*.json*"):
            text = file.read_text()
            for private in (root, tmp_path, path, Path.home(), Path.cwd()):
                assert str(private) not in text, (file, private)


def schema_of(file):
    if file.parent.parent.name == "categories":
        return "record" if file.suffix == ".jsonl" else "category_report"
    return file.stem


def test_what_is_written_has_the_published_schemas(root, undisturbed, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    data = tmp_path / "data"
    shutil.copytree(root, data)
    next((data / "terrazzo" / "train" / "good").iterdir()).write_bytes(b"junk")
    next((data / "wood" / "test" / "good").iterdir()).write_bytes(b"junk")
    next((data / "wood" / "ground_truth").rglob("*.png")).write_bytes(b"junk")
    with pytest.warns(UserWarning, match="left out of the pixel metrics"):
        broken = run(data, tmp_path, limit_train=9)
    loco = layouts.mvtec_loco(tmp_path / "loco")
    saturated = run_benchmark(
        "mvtec_loco", root=loco, model=MODEL, quantile=0.5, output_dir=tmp_path / "runs"
    )
    options = {"features__resize": 32}
    pyod = run(
        *(root, tmp_path),
        category="wood",
        model="vision_knn",
        model_options=options,
        limit_test=7,
        quantile=0.5,
    )
    seen = Counter()
    for result in (undisturbed, broken, saturated, pyod):
        for name, content in files_of(result.path, whole=True).items():
            schema = json_schema(schema_of(result.path / name))
            jsonschema.Draft202012Validator.check_schema(schema)
            for one in content if isinstance(content, list) else [content]:
                jsonschema.validate(one, schema)
                seen[schema_of(result.path / name)] += 1
                assert one["schema_version"] == SCHEMA_VERSION
    assert set(seen) == {"report", "config", "environment", "category_report", "record"}
    # A schema that forgets a field would let it come and go.
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**undisturbed.report, "new": 1}, json_schema("report"))


def test_keys_are_sorted(undisturbed):
    for file in (undisturbed.path / "report.json", *undisturbed.path.glob("categories/*/*.json")):
        if ".joblib" not in file.name:
            text = file.read_text()
            assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_the_fingerprint_is_of_the_content(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root / "wood", elsewhere)
    before = fingerprint(load_dataset("folder", root, category="wood").to_bunch())
    assert fingerprint(load_dataset("folder", elsewhere).to_bunch()) == before
    assert before["validation"] is None
    for part, place in (("train", "train/good"), ("test", "test/good"), ("test", "ground_truth")):
        changed = tmp_path / f"{part}{place.replace('/', '')}"
        shutil.copytree(elsewhere, changed)
        file = next((changed / place).rglob("*.png"))
        file.write_bytes(file.read_bytes() + b"\0")
        after = fingerprint(load_dataset("folder", changed).to_bunch())
        assert [one for one in before if after[one] != before[one]] == [part]


def test_names_hold_no_folders_of_the_machine(root, monkeypatch):
    monkeypatch.chdir(root)
    data = load_dataset("folder", "wood").to_bunch()
    names = InputNames(data, [root, Path.home() / "runs"])
    image = Path(data.X_test.paths[0])
    assert names.name(str(image), "") == image.relative_to("wood").as_posix()
    assert names.name(None, "test[3]") == "test[3]"
    assert names.shorten(f"{image} and {image.absolute()}: bad") == (
        "test/good/000.png and test/good/000.png: bad"
    )
    assert names.shorten(f"{root}/oak/1.png") == "oak/1.png"
    assert names.shorten("plywood/1.png") == "plywood/1.png"
    # Paths elsewhere, as in the repr of a step among the threshold's origins.
    origin = {"step": "Step(weights='/mnt/of/alice/a.pth')", "n": 3, "more": ["/a/b/c: bad", None]}
    assert names.shorten(origin) == {
        "step": "Step(weights='a.pth')",
        "n": 3,
        "more": ["c: bad", None],
    }
    for text in ("1 / 2 and/or 3/4", "https://example.org/a/b", "C:\\"):
        assert names.shorten(text) == text
    assert names.shorten(r"D:\data\x.png: bad") == "x.png: bad"


def test_records_need_not_be_written(root, tmp_path):
    result = run(root, tmp_path, category="wood", save_records=False)
    assert not list(result.path.rglob("*.jsonl")) and len(result.records["wood"]) == 10


def test_config_is_the_same_in_each_run(root, undisturbed, tmp_path):
    model = PatchCoreDetector(FilterBankFeatures(resize=32), coreset_ratio=0.02)
    result = run(root, tmp_path, model=model, category="wood", model_name="mine")
    config = RunDirectory(result.path).read_config()
    assert config["model"] == "mine" and config["categories"] == ["wood"]
    assert config["pipeline"] == RunDirectory(undisturbed.path).read_config()["pipeline"]


def test_files_among_parameters_are_named_by_their_content(tmp_path):
    class Model(BaseEstimator):
        def __init__(self, weights, function=len, other="/no/such/file.pth"):
            self.weights, self.function, self.other = weights, function, other

    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"abc")
    found = describe(Model(weights, function=lambda x: x))["params"]
    assert found["weights"] == f"weights.pth (SHA-256 {hashlib.sha256(b'abc').hexdigest()})"
    assert found["other"] == "file.pth"
    assert " at 0x" not in found["function"] and found["function"].endswith("<lambda>")


# ---- interrupted and resumed ------------------------------------------------------------
class Stopped(BaseException):
    """Takes the place of a signal."""


def stop_at(monkeypatch, function, category):
    """Let a run stop when it calls ``function`` of _category for a category."""
    real, fitted = getattr(_category, function), []

    def stopping(*arguments, **options):
        if any(category in str(one) for one in arguments):
            raise Stopped
        fitted.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(_category, function, stopping)
    return fitted


@pytest.mark.parametrize("function", ["save", "judge", "draw_pictures"])
def test_a_resumed_run_is_the_undisturbed_one(function, root, undisturbed, tmp_path, monkeypatch):
    stop_at(monkeypatch, function, "terrazzo")
    with pytest.raises(Stopped):
        run(root, tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    assert not RunDirectory(path).report.exists()
    monkeypatch.undo()
    done = []
    real = _category.fit
    monkeypatch.setattr(_category, "fit", lambda *a: done.append(1) or real(*a))
    result = run(root, tmp_path, resume=True)
    assert result.path == path and len(done) == 2  # brushed_metal is not repeated
    assert files_of(path) == files_of(undisturbed.path)
    assert result.records == undisturbed.records
    assert list(result.pipelines.paths) == NAMES
    # A finished run is no work at all.
    assert run(root, tmp_path, resume=path).records == undisturbed.records
    assert len(done) == 2 and len(list((tmp_path / "runs").iterdir())) == 1


def test_failed_categories_are_tried_again(root, undisturbed, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    broken = next((data / "terrazzo" / "train" / "good").iterdir())
    content = broken.read_bytes()
    broken.write_bytes(b"junk")
    assert list(run(data, tmp_path).report["failed"]) == ["terrazzo"]
    broken.write_bytes(content)
    result = run(data, tmp_path, resume=True)
    assert result.report["failed"] == {}
    assert files_of(result.path) == files_of(undisturbed.path)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_resume_starts_a_run_where_there_is_none(root, tmp_path):
    first = run(root, tmp_path, category="wood", resume=True)
    RunDirectory(first.path).report.unlink()  # as if it had been interrupted
    with pytest.warns(
        UserWarning, match=r"a new run is begun.* differs in pipeline\.\w+\.quantile"
    ):
        other = run(root, tmp_path, category="wood", quantile=0.8, resume=True)
    assert first.path != other.path
    with pytest.raises(RunError, match=r"asked for something else: pipeline\.\w+\.quantile differ"):
        run(root, tmp_path, category="wood", quantile=0.8, resume=first.path)


def test_a_run_whose_images_have_changed_is_not_resumed(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    run(data, tmp_path, category="wood")
    file = next((data / "wood" / "test" / "good").iterdir())
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(RunError, match="the images of wood are not those"):
        run(data, tmp_path, category="wood", resume=True)


def test_a_run_of_other_versions_is_not_resumed(root, tmp_path):
    first = run(root, tmp_path, category="wood")
    file = RunDirectory(first.path).environment
    content = json.loads(file.read_text())
    content["packages"]["numpy"] = "1.0"
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"was begun with numpy 1\.0, and here is"):
        run(root, tmp_path, category="wood", resume=True)


@pytest.mark.skipif(os.name != "posix", reason="folders have no locks")
def test_a_run_that_is_going_on_is_not_resumed(root, tmp_path, monkeypatch):
    real = _category.fit

    def and_resume(pipeline, data, *more):
        (path,) = (tmp_path / "runs").iterdir()
        with pytest.raises(BlockingIOError, match="another run is writing in this folder"):
            run(root, tmp_path, category="wood", resume=path)
        return real(pipeline, data, *more)

    monkeypatch.setattr(_category, "fit", and_resume)
    assert list(run(root, tmp_path, category="wood").categories) == ["wood"]


@pytest.mark.usefixtures("whole_runs")
@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_killed_runs_are_resumed(root, tmp_path, capsys):
    # benchmarks/kill_and_resume.py does this at random moments.
    command = [
        *("--dataset", "folder", "--root", root, "--category", *NAMES[:2]),
        *("--model", NOT_CUT_SHORT, "--quantile", 0.9, "--overlays", 2, "--resume"),
    ]
    command = [str(one) for one in command]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for last in ("config.json", "categories/brushed_metal/report.json"):
        program = [sys.executable, "-m", "pyimgano", "benchmark", *command]
        with subprocess.Popen(
            [*program, "--output-dir", str(killed)], stdout=subprocess.DEVNULL
        ) as process:
            while not list(killed.glob(f"*/{last}")):
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    (path,) = killed.iterdir()
    assert not RunDirectory(path).is_complete
    for folder in (killed, whole):
        assert benchmark.main([*command, "--output-dir", str(folder)]) == 0
    assert [one.name for one in killed.iterdir()] == [path.name]
    assert files_of(path) == files_of(next(whole.iterdir()))
    assert not list(path.rglob("*.part"))


# ---- the commit -----------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_run_notes_the_commit_of_the_working_directory(root, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)

    def git(*arguments):
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert git_state() is None
    git("init", "-q")
    assert git_state() is None  # no commit yet
    (project / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    git("config", "core.fsmonitor", f"touch {tmp_path / 'started'}; false")
    (project / "new").write_text("not tracked")
    commit = git("rev-parse", "HEAD")
    assert git_state() == {"commit": commit, "modified": False}
    (project / "a").write_text("23")
    (tmp_path / "started").unlink(missing_ok=True)
    result = run(root, tmp_path, category="wood", n_overlays=0, save_pipeline=False)
    noted = RunDirectory(result.path).read_environment()
    assert noted["git"] == {"commit": commit, "modified": True}
    assert not (tmp_path / "started").exists()  # no program of the repository's was started
    monkeypatch.setenv("PATH", str(project))
    assert git_state() is None
