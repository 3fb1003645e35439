"""The ends that a command can come to: its exit status, and the files that are there then."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.benchmark import RunDirectory, _benchmark, _category, _run_dir
from pyimgano.cli import _common, _judging, _pictures, _records, benchmark, infer, train
from pyimgano.cli.main import COMMANDS, main
from pyimgano.datasets import load_folder, write_inspection_dataset
from pyimgano.features import FilterBankFeatures
from pyimgano.utils import _outputs
from tests.utils.moments import before_every_line, files_of_at_most

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX"),
    pytest.mark.usefixtures("short_runs"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_inspection_dataset(
        root, "wood", n_train=12, n_test_good=3, n_test_defect=4, size=64, random_state=0
    )
    return root


@pytest.fixture(scope="module")
def pipeline_file(root, tmp_path_factory):
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.05)
    pipeline = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.9))
    pipeline.fit(load_folder(root, "wood").X_train)
    path = tmp_path_factory.mktemp("saved") / "line3.joblib"
    return pyimgano.save(pipeline, path, map_range=(0.0, 1.0))


@pytest.fixture
def commands(root, pipeline_file, tmp_path):
    """Each command that works for long, with arguments."""
    model = "--features", "filterbank", "--resize", "64", "--set", "coreset_ratio=0.02"
    arguments = {
        "infer": (pipeline_file, root / "wood/test", "--save-jsonl", tmp_path / "verdicts.jsonl"),
        "train": (root / "wood/train/good", "-o", tmp_path / "line.joblib", *model),
        "benchmark": ("--dataset", "folder", "--root", root, "--output-dir", tmp_path, *model),
    }
    arguments["train"] += ("--quantile", "0.9")
    arguments["benchmark"] += ("--quantile", "0.9", "--overlays", "3")
    mains = {"infer": infer.main, "train": train.main, "benchmark": benchmark.main}
    return {name: lambda n=name: mains[n]([str(a) for a in arguments[n]]) for name in mains}


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# ---- at every moment ------------------------------------------------------------------
class Watch:
    """Looks at each file that is new or has changed, and at nothing twice."""

    def __init__(self, folder, look):
        self.folder, self.look = folder, look
        self.seen, self.n = set(), 0

    def __call__(self):
        self.n += 1
        for path in self.folder.rglob("*.*"):
            if path.is_file() and not path.name.endswith(".part"):
                about = path.stat()
                key = path, about.st_ino, about.st_size, about.st_mtime_ns
                if key not in self.seen:
                    self.look(path)
                    self.seen.add(key)


def look_at(path):
    """A file under a final name is whole, or this raises."""
    content = path.read_bytes()
    if path.suffix == ".npy":
        assert np.load(path).shape == (64, 64)
    elif path.suffix == ".png":
        assert content.endswith(b"IEND\xaeB`\x82")
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None
    elif path.suffix == ".json":
        json.loads(content)
    elif path.name == "per_image.jsonl":
        assert [json.loads(line)["index"] for line in content.splitlines()] == list(range(7))
    elif path.suffix == ".jsonl":
        *records, last = map(json.loads, content.splitlines())
        assert last["complete"] and last["n_images"] == len(records)
    elif path.suffix == ".csv":
        assert len(content.splitlines()) in (1 + 3, 1 + 7)
    else:
        assert path.suffix == ".joblib"
        pyimgano.load(path)


def test_infer_leaves_whole_files_at_every_line(pipeline_file, root, tmp_path):
    arguments = ["--save-jsonl", tmp_path / "v.jsonl", "--save-csv", tmp_path / "v.csv"]
    arguments += ["--save-maps", tmp_path / "maps", "--save-npy"]

    def call(which):
        return infer.main([str(a) for a in (pipeline_file, root / "wood/test" / which, *arguments)])

    assert call("good") == 0
    watch = Watch(tmp_path, look_at)
    watch()
    before = len(watch.seen)
    with before_every_line(watch, _outputs, infer, _judging, _pictures, _records):
        assert call("") == 0
    assert before == 2 + 2 * 3 and len(watch.seen) == before + 2 + 2 * 7
    assert watch.n > 1000


def test_benchmark_leaves_whole_files_at_every_line(commands, tmp_path):
    assert commands["benchmark"]() == 0
    (first,) = tmp_path.iterdir()
    before = contents(first)
    seen = []

    def look(path):
        look_at(path)
        if path.name == "report.json":  # all else of the folder is there
            seen.append(path.parent.name)
            names = {one.name for one in path.parent.iterdir()}
            whole = {"pipeline.joblib", "pipeline.joblib.json", "per_image.jsonl", "overlays"}
            assert names >= (whole if path.parent.name == "wood" else {"config.json"})
            if path.parent.name == "wood":
                assert len(list((path.parent / "overlays").iterdir())) == 3

    watch = Watch(tmp_path, look)
    watch()
    with before_every_line(watch, _outputs, _run_dir, _category, _benchmark):
        assert commands["benchmark"]() == 0
    watch()
    (second,) = set(tmp_path.iterdir()) - {first}
    assert seen == ["wood", first.name, "wood", second.name] or seen == [
        *(first.name, "wood", "wood", second.name)
    ]
    assert contents(first) == before and watch.n > 1000


# ---- a full disk ----------------------------------------------------------------------
@pytest.mark.parametrize("n_bytes", [0, 700, 3000])
def test_infer_on_a_full_disk(n_bytes, commands, pipeline_file, root, tmp_path, capsys):
    assert commands["infer"]() == 0
    before = contents(tmp_path)
    out = tmp_path / "verdicts.jsonl"
    arguments = [pipeline_file, root / "wood/test", "--save-jsonl", out]
    arguments += ["--save-maps", tmp_path / "maps"] * (n_bytes == 3000)
    capsys.readouterr()
    with files_of_at_most(n_bytes):
        assert infer.main([str(one) for one in arguments]) == 4
    (err,) = capsys.readouterr().err.splitlines()
    n_done = int(re.search(r"stopped after (\d) of 7 images", err).group(1))
    assert n_done == {0: 0, 700: 3, 3000: 0}[n_bytes]
    part = Path(f"{out}.part")
    assert part.exists() == (f"whose records are in {part}" in err) == (n_done > 0)
    if n_done:
        records = [json.loads(line) for line in part.read_text().splitlines()]
        assert [record["index"] for record in records] == list(range(n_done))
        part.unlink()
    assert contents(tmp_path) == before


def test_train_on_a_full_disk_keeps_the_last_pipeline(commands, tmp_path, capsys):
    assert commands["train"]() == 0
    before = contents(tmp_path)
    with files_of_at_most(10_000):
        assert commands["train"]() == 4
    assert f"error: {tmp_path / 'line.joblib'}: " in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_full_folder_of_temporary_files_is_named(commands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyimgano.detectors._patches._IN_MEMORY", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with files_of_at_most(1000):
        assert commands["train"]() == 4
    (line,) = capsys.readouterr().err.splitlines()
    for text in ("the training patches are kept", str(tmp_path / "temporary"), "TMPDIR"):
        assert text in line
    assert line.startswith("pyimgano-train: error: File too large: while fitting")
    assert contents(tmp_path) == {}


def test_benchmark_on_a_full_disk_keeps_the_last_run(commands, tmp_path, capsys):
    assert commands["benchmark"]() == 0
    before = contents(tmp_path)
    with files_of_at_most(10_000):
        assert commands["benchmark"]() == 4
    err = capsys.readouterr().err
    assert "pipeline.joblib: " in err and "no category is complete, and nothing was kept" in err
    assert contents(tmp_path) == before


# ---- a folder that cannot be written to any more ----------------------------------------
@pytest.mark.parametrize("where", ["pyimgano.persistence.save", "pyimgano.reporting.map_range"])
def test_a_pipeline_that_was_fitted_and_cannot_be_saved(where, commands, monkeypatch, capsys):
    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", "line.joblib")

    monkeypatch.setattr(where, refused)
    assert commands["train"]() == 4
    assert capsys.readouterr().err == (
        "pyimgano-train: error: line.joblib: Permission denied; the pipeline was fitted, but not "
        "saved\n"
    )


def test_a_benchmark_whose_folder_vanishes_says_what_there_is(
    commands, tmp_path, monkeypatch, capsys
):
    def refused(run, report):
        raise PermissionError(errno.EACCES, "Permission denied", str(run.report))

    monkeypatch.setattr(RunDirectory, "write_report", refused)
    assert commands["benchmark"]() == 4
    (run,) = tmp_path.iterdir()
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"pyimgano-benchmark: error: {run / 'report.json'}: Permission denied; ")
    assert err.endswith(f"stopped, the complete categories are in {run}: wood")


def test_a_benchmark_whose_summary_cannot_be_written_prints_it(root, tmp_path, monkeypatch, capsys):
    from pyimgano.utils import _json

    def refused(path, value):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    real = _json.write_json
    out = tmp_path / "summary.json"
    monkeypatch.setattr(
        _json, "write_json", lambda p, v: (refused if p == str(out) else real)(p, v)
    )
    arguments = "--dataset", "folder", "--root", root, "--output-dir", tmp_path, "--output", out
    model = "--features", "filterbank", "--resize", "64", "--set", "coreset_ratio=0.02"
    arguments += (*model, "--quantile", "0.9", "--overlays", "0", "--no-save")
    assert benchmark.main([str(one) for one in arguments]) == 4
    (run,) = tmp_path.iterdir()
    printed, err = capsys.readouterr()
    assert json.loads(printed) == RunDirectory(run).read_report()
    assert err.splitlines()[-1] == (
        f"pyimgano-benchmark: error: {out}: No such file or directory; the run directory is {run}"
    )


# ---- SIGTERM --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("name", ["train", "benchmark"])
@pytest.mark.parametrize(
    "where",
    [
        "pyimgano.features._filterbank._learn_metric",
        "joblib.dump",
        "pyimgano.persistence._saving.read_saved",
    ],
)
def test_signals_clean_up(
    where, name, number, status, word, commands, tmp_path, monkeypatch, capsys
):
    def stopped(*arguments, **options):
        signal.raise_signal(number)
        raise AssertionError("was not reached")

    monkeypatch.setattr(where, stopped)
    assert commands[name]() == status
    *before, last = capsys.readouterr().err.splitlines()
    assert last == f"pyimgano-{name}: {word}"
    nothing = "pyimgano-benchmark: no category is complete, and nothing was kept"
    assert (nothing in before) == (name == "benchmark")
    assert contents(tmp_path) == {}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_signals_in_a_benchmark_keep_a_fitted_pipeline_and_name_it(
    number, status, word, commands, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(_category, "measure", lambda *_: signal.raise_signal(number))
    assert commands["benchmark"]() == status
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"pyimgano-benchmark: no category is complete; fitted pipelines are in {path}",
        f"pyimgano-benchmark: {word}",
    ]
    assert pyimgano.load(RunDirectory(path).category("wood").pipeline)
    assert RunDirectory(path).categories() == [] and not RunDirectory(path).is_complete


def test_a_second_sigterm_does_not_cut_the_cleaning_up_short(tmp_path, capsys):
    def job():
        with _outputs.atomic_write(tmp_path / "a") as file:
            try:
                file.write(b"new")
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)

    assert _common.run("command", job) == 143
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_signals_at_the_shell(number, status, word, root, pipeline_file, tmp_path):
    # A process of its own, stopped while it writes; a shell ignores SIGINT in the background.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pyimgano.cli.infer import main; sys.exit(main())"
    )
    out = tmp_path / "verdicts.jsonl"
    out.write_text("the last result\n")
    many = [str(root / "wood")] + [str(path) for path in (root / "wood").rglob("*.png")]
    command = [sys.executable, "-c", code, str(pipeline_file), *many]
    command += ["--save-jsonl", str(out), "--save-maps", str(tmp_path / "maps")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not records_in(f"{out}.part") and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    first, last = err.strip().replace("\n\n", "\n").splitlines()
    assert (process.returncode, last) == (status, f"pyimgano-infer: {word}")
    assert first.endswith(f"were judged, whose records are in {out}.part; --resume goes on")
    assert out.read_text() == "the last result\n"
    assert all("score" in json.loads(line) for line in records_in(f"{out}.part"))
    assert [path.name for path in (tmp_path / "maps").rglob("*.part")] == []


def records_in(part):
    return Path(part).read_text().splitlines() if os.path.exists(part) else []


# ---- standard output and standard error -----------------------------------------------
def test_names_of_files_do_not_steer_the_terminal(root, tmp_path, capsys):
    folder = tmp_path / "good"
    folder.mkdir()
    for i, path in enumerate(sorted((root / "wood/train/good").iterdir())):
        (folder / f"{i}.png").write_bytes(path.read_bytes())
    (folder / "\x1b[2Jbroken.png").write_bytes(b"none")
    (folder / "copy\r\u202e.png").write_bytes((folder / "0.png").read_bytes())
    arguments = folder, "-o", tmp_path / "a.joblib", "--features", "filterbank", "--resize", "64"
    assert train.main([str(one) for one in (*arguments, "--quantile", "0.9")]) == 1
    out, err = capsys.readouterr()
    assert "\\x1b[2Jbroken.png" in err and "copy\\r\\u202e.png" in err
    assert all(one.isprintable() for one in (out + err).split("\n"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["closed", "full", "unread"])
@pytest.mark.parametrize("name", ["train", "benchmark", "infer"])
def test_commands_go_on_when_nobody_can_read_what_they_say(
    kind, name, commands, tmp_path, monkeypatch
):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, stream_that_is(kind))
    # The report of a benchmark is a result, and goes to standard output if that is open.
    lost = name == "benchmark" and kind != "closed"
    assert commands[name]() == (4 if lost else 0)
    if name == "benchmark":
        (run,) = tmp_path.iterdir()
        assert RunDirectory(run).is_complete
    else:
        assert (tmp_path / {"train": "line.joblib", "infer": "verdicts.jsonl"}[name]).exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("closed", 2, "standard output is closed, and the result is written there"),
        ("full", 4, "standard output: No space left on device"),
        ("unread", 4, ""),
    ],
)
def test_a_result_that_cannot_be_written_is_an_error(kind, status, message, monkeypatch, capsys):
    for arguments in (["models", "list"], ["doctor", "--json"]):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream_that_is(kind))
            assert main(arguments) == status
        assert message in capsys.readouterr().err


def stream_that_is(kind):
    if kind == "closed":
        return None
    if kind == "full":
        return open("/dev/full", "w")
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


def test_records_that_standard_output_has_no_room_for(root, pipeline_file, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream_that_is("full"))
        assert infer.main([str(pipeline_file), str(root / "wood/test")]) == 4
    expected = "standard output: No space left on device; stopped after 0 of 7 images\n"
    assert capsys.readouterr().err == f"pyimgano-infer: error: {expected}"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream_that_is("closed"))
        assert infer.main([str(pipeline_file), str(root / "wood/test"), "--save-jsonl", "-"]) == 2
    expected = "standard output is closed, and the records would go there; give --save-jsonl FILE\n"
    assert capsys.readouterr().err == f"pyimgano-infer: error: {expected}"


@pytest.mark.parametrize("arguments", [["--help"], ["--nonsense"]])
@pytest.mark.parametrize("redirection", ["> /dev/full 2>&1", ">&- 2>&-", "2> /dev/full >&-"])
def test_help_and_wrong_options_with_no_one_to_read_them(arguments, redirection):
    code = "import sys; from pyimgano.cli.doctor import main; sys.exit(main())"
    command = f"'{sys.executable}' -c '{code}' {arguments[0]} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    expected = 0 if arguments == ["--help"] else 2
    assert (done.returncode, done.stdout, done.stderr) == (expected, "", "")


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    # A decoder of images written in C prints to descriptor 2, whatever that is.
    code = (
        "import os, sys; from pyimgano.cli import _common\n"
        "def job():\n"
        "    with open(sys.argv[1], 'w') as file:\n"
        "        os.write(1, b'noise'), os.write(2, b'noise')\n"
        "        file.write('records')\n"
        "    return 0\n"
        "sys.exit(_common.run('command', job))\n"
    )
    (tmp_path / "code.py").write_text(code)
    command = f"'{sys.executable}' '{tmp_path}/code.py' '{tmp_path}/out' >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0
    assert (tmp_path / "out").read_text() == "records"


def test_benchmark_refuses_outputs_that_cannot_be(root, tmp_path, monkeypatch, capsys):
    manifest = tmp_path / "parts.csv"
    manifest.write_text("path,split,label\n")
    arguments = ["--dataset", "manifest", "--root", str(manifest)]
    for output, message in ((manifest, "would overwrite"), ("/dev/null", "is a device, no file")):
        assert benchmark.main([*arguments, "--output", str(output)]) == 2
        assert f"--output {output}: {message}" in capsys.readouterr().err
    assert manifest.read_text() == "path,split,label\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert benchmark.main([*arguments, "--json"]) == 2
    assert "--json: standard output is closed" in capsys.readouterr().err


def test_names_that_the_terminal_has_no_characters_for(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        _common.tell("k\u00fcche \udcff.png")
        _common.answer("k\u00fcche")
    assert (tmp_path / "out").read_text() == "k\\xfcche \\udcff.png\nk\\xfcche\n"


# ---- exit statuses --------------------------------------------------------------------
def test_help_and_guide_list_the_exit_statuses(capsys):
    known = {name: value for name, value in vars(_common).items() if name.startswith("EXIT_")}
    everywhere = set(known.values()) - {_common.EXIT_ERRORS, _common.EXIT_ANOMALY}
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        told = capsys.readouterr().out.split("exit status:\n")[1]
        listed = {int(one) for one in re.findall(r"^  (\d+)", told, re.MULTILINE)}
        assert everywhere <= listed <= set(known.values()), name
    guide = (ROOT / "doc/user_guide/command_line.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - ([\d, ]+)$", guide, re.MULTILINE)
    assert {int(one) for row in rows for one in row.split(",")} == set(known.values())
