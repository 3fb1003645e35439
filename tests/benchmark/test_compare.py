"""Two runs side by side: which differences are more than chance, and which runs do not compare."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pyimgano import PatchCoreDetector, run_benchmark
from pyimgano.benchmark import RunDirectory, compare_runs
from pyimgano.cli import runs
from pyimgano.datasets import write_inspection_dataset
from pyimgano.exceptions import RunError
from pyimgano.features import FilterBankFeatures

pytestmark = pytest.mark.usefixtures("short_runs")

MODEL = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.02)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("brushed_metal", "wood"):
        write_inspection_dataset(
            root, name, random_state=0, n_train=10, n_test_good=4, n_test_defect=6, size=64
        )
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return run_benchmark("folder", root=root, model=MODEL, quantile=0.9, output_dir=out).path


def rewrite(category, records):
    with category.writing_per_image() as write:
        for record in records:
            write(record)


def with_scores(run, to, change, n_images=60):
    """A copy of a run with scores that ``change`` makes of labels, for many test images."""
    shutil.copytree(run, to)
    for category in RunDirectory(to).categories():
        record = category.read_per_image()[0]
        records = []
        for i in range(n_images):
            y = i % 2
            one = {"index": i, "input": f"test/{i}.png", "y_true": y, "threshold": 1.0}
            score = float(change(np.random.RandomState(i), y))
            records.append({**record, **one, "score": score, "pred": int(score > 1)})
        rewrite(category, records)
    return to


def test_a_run_does_not_differ_from_itself(run):
    found = compare_runs(run, run)
    assert list(found["categories"]) == ["brushed_metal", "wood"]
    for metrics in (found["mean"], *(one["metrics"] for one in found["categories"].values())):
        for one in metrics.values():
            assert (one["difference"], one["interval"], one["verdict"]) == (0, [0, 0], "chance")
    assert found["baseline"] == {"run": run.name, "dataset": "folder", "model": "PatchCoreDetector"}


def test_values_are_those_of_the_reports(run):
    report = RunDirectory(run).read_report()
    found = compare_runs(run, run)
    for name, one in found["categories"].items():
        row = report["categories"][name]
        for metric, key in (("auroc", "image_auroc"), ("f1", "f1"),
                            ("average_precision", "average_precision"),
                            ("false_positive_rate", "false_positive_rate"),
                            ("true_positive_rate", "true_positive_rate")):  # fmt: skip
            assert one["metrics"][metric]["baseline"] == pytest.approx(row[key])
    assert found["mean"]["auroc"]["other"] == pytest.approx(report["mean"]["image_auroc"])


def test_large_differences_are_told_from_small_ones(run, tmp_path):
    base = with_scores(run, tmp_path / "base", lambda rng, y: y + rng.normal())
    # The same scores but for a little noise: paired, so that the images' own differences cancel.
    same = with_scores(
        run, tmp_path / "same", lambda rng, y: y + rng.normal() + 0.05 * rng.normal()
    )
    good = with_scores(run, tmp_path / "good", lambda rng, y: 3 * y + rng.normal())
    found = compare_runs(base, good)
    for metrics in (found["mean"], found["categories"]["wood"]["metrics"]):
        assert metrics["auroc"]["verdict"] == metrics["true_positive_rate"]["verdict"] == "better"
        low, high = metrics["auroc"]["interval"]
        assert 0 < low < metrics["auroc"]["difference"] < high
        # Good images have the same scores in both, and the threshold is the same.
        assert metrics["false_positive_rate"]["verdict"] == "chance"
    assert compare_runs(good, base)["mean"]["auroc"]["verdict"] == "worse"
    assert compare_runs(base, same)["mean"]["auroc"]["verdict"] == "chance"
    records = RunDirectory(good).category("wood").read_per_image()
    auroc = roc_auc_score([r["y_true"] for r in records], [r["score"] for r in records])
    assert found["categories"]["wood"]["metrics"]["auroc"]["other"] == pytest.approx(auroc)


def test_fewer_false_alarms_are_better(run, tmp_path):
    base = with_scores(run, tmp_path / "base", lambda rng, y: 1.5 if rng.rand() < 0.5 else 0.5)
    calm = with_scores(run, tmp_path / "calm", lambda rng, y: 2.0 * y)
    assert compare_runs(base, calm)["mean"]["false_positive_rate"]["verdict"] == "better"


def test_pairs_are_as_rarely_told_apart_as_asked_for(run, tmp_path):
    """Of runs that differ by noise alone, 1 in 20 is told apart at 95 %."""
    wrong = 0
    for k in range(24):
        pair = [
            with_scores(
                run,
                tmp_path / f"{k}-{side}",
                lambda rng, y, seed=100 * k + side: (
                    y + np.random.RandomState([seed, rng.randint(10**6)]).normal()
                ),
            )
            for side in (0, 1)
        ]
        found = compare_runs(*pair, n_resamples=300)
        wrong += found["categories"]["wood"]["metrics"]["auroc"]["verdict"] != "chance"
    assert wrong <= 5  # 1.2 are expected; more than 5 have a probability of 0.1 %


def test_different_images_are_refused_unless_allowed(root, run, tmp_path):
    other = run_benchmark(
        "folder", root=root, model=MODEL, quantile=0.9, output_dir=tmp_path, limit_test=7
    ).path
    with pytest.raises(RunError, match="brushed_metal: the test images of the runs differ"):
        compare_runs(run, other)
    found = compare_runs(run, other, allow_different_splits=True)
    one = found["categories"]["wood"]
    assert one["n_good"] + one["n_defect"] == 7
    assert one["metrics"]["auroc"]["difference"] == 0  # the same model, on the same images
    wood = run_benchmark(
        "folder", root=root, category="wood", model=MODEL, quantile=0.9, output_dir=tmp_path / "w"
    ).path
    found = compare_runs(run, wood)
    assert list(found["categories"]) == ["wood"] and found["left_out"] == ["brushed_metal"]


def test_runs_that_cannot_be_compared_say_why(run, tmp_path):
    with pytest.raises(RunError, match="it is no run directory"):
        compare_runs(run, tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "report.json").unlink()
    with pytest.raises(RunError, match="did not come to its end"):
        compare_runs(run, unfinished)
    silent = tmp_path / "silent"
    shutil.copytree(run, silent)
    for file in silent.rglob("per_image.jsonl"):
        file.unlink()
    with pytest.raises(RunError, match="has no records of brushed_metal"):
        compare_runs(run, silent)
    turned = tmp_path / "turned"
    shutil.copytree(run, turned)
    category = RunDirectory(turned).category("wood")
    rewrite(
        category,
        [{**record, "y_true": 1 - record["y_true"]} for record in category.read_per_image()],
    )
    with pytest.raises(RunError, match="is good in one run and defective in the other"):
        compare_runs(run, turned)


# ---- the command ------------------------------------------------------------------------
def call(*arguments):
    try:
        return runs.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def test_command_lists_runs(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "b")
    shutil.copytree(run, tmp_path / "a")
    (tmp_path / "a" / "report.json").unlink()
    assert call("list", tmp_path) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["run", "state"]
    assert first.split()[:3] == [str(tmp_path / "a"), "unfinished", "2"]
    report = RunDirectory(run).read_report()
    assert second.split()[:5] == [
        str(tmp_path / "b"), "complete", "2", "0", f"{report['mean']['image_auroc']:.3f}"
    ]  # fmt: skip
    assert call("list", tmp_path / "b", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["state"] == "complete" and one["image_auroc"] == report["mean"]["image_auroc"]
    report = tmp_path / "b" / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "schema_version": 0}))
    assert call("list", tmp_path / "b") == 0
    assert "  of another version  " in capsys.readouterr().out
    assert call("show", tmp_path / "b") == 2
    assert "has schema_version 0, and this version of pyimgano reads 1" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert call("list", tmp_path / "empty") == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path / 'empty'}\n"


def test_command_shows_a_run(run, tmp_path, capsys):
    assert call("show", run) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{run}: PatchCoreDetector on folder\n")
    assert "\nwood" in out and "\nmean" in out and "wood: threshold" in out
    assert call("show", run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == RunDirectory(run).read_report()


def test_command_compares_runs(run, tmp_path, capsys):
    base = with_scores(run, tmp_path / "base", lambda rng, y: y + rng.normal())
    good = with_scores(run, tmp_path / "good", lambda rng, y: 3 * y + rng.normal())
    assert call("compare", base, good) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("good (") and lines[1].startswith("against base (")
    (line,) = [one for one in lines if one.startswith("mean")]
    assert line.endswith("better") and "image AUROC" in line
    assert call("compare", base, base) == 0
    assert capsys.readouterr().out.count("+0.000 to +0.000  the same") == 15
    assert call("compare", base, good, good, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == [compare_runs(base, good)] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("list {tmp}/none", "none: there is no such folder; give one of runs"),
        ("show {tmp}", "is no run directory: it has no report.json; pyimgano runs list"),
        ("compare {run}", "the following arguments are required: DIR"),
        ("compare {run} {tmp}", "it is no run directory"),
        ("", "list|show|compare"),
    ],
)
def test_command_refuses_what_is_no_run(arguments, message, run, tmp_path, capsys):
    assert call(*arguments.format(run=run, tmp=tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("pyimgano-runs") and message in err and len(err.splitlines()) == 1
