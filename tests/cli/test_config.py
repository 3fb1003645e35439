"""Configuration files: every option of every command, what overrides what, what is refused."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest

import pyimgano
from pyimgano.cli import _common, _config, benchmark, infer, recalibrate, train
from pyimgano.cli.main import COMMANDS, main
from pyimgano.datasets import write_inspection_dataset


def module_of(name):
    return importlib.import_module(f"pyimgano.cli.{name.replace('-', '_')}")


def is_configured(name):
    return getattr(module_of(name)._parser(), "takes_config", False)


CONFIGURED = [name for name in COMMANDS if is_configured(name)]


def parse(name, words):
    """The options of a command, by their destination."""
    parser = module_of(name)._parser()
    intermixed = "positional" in {action.dest for action in parser._actions}
    words = [str(word) for word in words]
    options = (parser.parse_intermixed_args if intermixed else parser.parse_args)(words)
    left_out = ("config", "dump_config", "positional")
    return {key: value for key, value in vars(options).items() if key not in left_out}


# Two values of each type that some option takes; an option takes those that its parser does.
CANDIDATES = {
    "bool": [True, False],
    "float": [0.75, 0.5, 2.5, 100.5],
    "int": [1, 2, 64, 256],
    "int | str": [2, "layer3"],
    "str": [
        *("cpu", "data.x", "1,2,30,40", "3,4,50,60", "folder", "mvtec_ad", "bgr_u8_hwc"),
        *("gray_u8_hw", "industrial-balanced", "embedded", "clahe", "gamma:gamma=2"),
        *("dust", "shift"),
    ],
    "table": [{"k": 3, "a": [1, None, "x"]}, {"k": "text", "b": {"c": 0.5}}],
}


def samples(action):
    """Two values of an option, in the types of JSON, that differ from its default."""
    kind = _config._kind(action)
    found = []
    for value in action.choices or CANDIDATES[kind]:
        try:
            if callable(action.type) and kind != "table":
                action.type(value if isinstance(value, str) else json.dumps(value))
        except argparse.ArgumentTypeError:
            continue
        if value != action.default or kind == "bool":
            found.append(value)
    if action.nargs in ("+", "*") or _config.collects(action):
        found = [found, found[1:]]
    return found[0], found[1 % len(found)]


def as_words(key, action, value):
    """A value as one gives it on the command line."""
    if not action.option_strings:
        return [value]
    if isinstance(value, bool) and action.nargs == 0:
        return [f"--{'' if value else 'no-'}{key}"]
    if isinstance(value, dict):
        if action.dest == "set" and key != "set":
            return [f"--{key}", json.dumps(value)]
        return [w for k, v in value.items() for w in (f"--{key}", f"{k}={json.dumps(v)}")]
    if _config.collects(action):
        return [w for one in value for w in (f"--{key}", one)]
    return [f"--{key}", *(value if isinstance(value, list) else [value])]


def needed(name, action):
    """What else the command cannot do without."""
    others = [one for one in module_of(name)._parser()._actions if one.required]
    words = [
        as_words(_config._names(one)[0], one, "needed") for one in others if one.dest != action.dest
    ]
    return [word for group in words for word in group]


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_option_is_given_by_a_file_and_overridden(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative paths are the same in a file and on the command line
    file = tmp_path / "config.json"
    keys = _config._keys(module_of(name)._parser())
    assert len(keys) >= 9
    for key, action in keys.items():
        first, second = samples(action)
        more = needed(name, action)
        file.write_text(json.dumps({key: first}))
        dest = action.dest
        by_file = parse(name, ["--config", "config.json", *more])
        assert by_file == parse(name, [*more, *as_words(key, action, first)]), key
        assert by_file[dest] is not None, key
        both = parse(name, ["--config", "config.json", *more, *as_words(key, action, second)])
        alone = parse(name, [*more, *as_words(key, action, second)])
        if isinstance(first, dict):  # a parameter each
            assert dict(both.pop(dest)) == {**first, **second}
            alone.pop(dest)
        assert both == alone, key


@pytest.mark.parametrize("name", CONFIGURED)
def test_printed_options_give_the_same_run(name, tmp_path, monkeypatch, capsys):
    parser = module_of(name)._parser()
    keys = _config._keys(parser)
    content = {}
    for key, action in keys.items():
        if action.dest not in [keys[one].dest for one in content]:
            excluded = any(
                action in group._group_actions and group._group_actions[0] is not action
                for group in parser._mutually_exclusive_groups
            )
            content[key] = None if excluded else samples(action)[0]
    (tmp_path / "first.json").write_text(json.dumps(content))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    command = module_of(name)
    for options in ([], ["--config", "first.json"]):
        with pytest.raises(SystemExit) as stop:
            command.main([*options, "--dump-config"])
        assert stop.value.code == 0
        printed, err = capsys.readouterr()
        assert err == ""
        back = Path("elsewhere/second.json")
        back.write_text(printed)
        # Paths are absolute: they mean the same wherever the file is.
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(SystemExit):
            command.main(["--config", "second.json", "--dump-config"])
        assert capsys.readouterr().out == printed
        monkeypatch.chdir(tmp_path)
        assert set(json.loads(printed)) == {_config._names(one)[0] for one in keys.values()} - {
            *("preset", "model-kwargs")  # of --model and --set
        }
    assert json.dumps(f"{tmp_path}{os.sep}")[1:-1] in printed
    relative = printed.replace(json.dumps(f"{tmp_path}{os.sep}")[1:-1], "")
    assert json.loads(relative) == content


@pytest.mark.parametrize("name", COMMANDS)
def test_options_can_be_read_from_a_file_and_turned_off(name):
    parser = module_of(name)._parser()
    if not getattr(parser, "takes_config", False):
        return
    for key, action in _config._keys(parser).items():
        assert _config._kind(action) in _config._KINDS, key
        assert action.nargs != 0 or isinstance(action, _common.Switch), (
            f'--{key}: take action="switch", which the command line can turn off again'
        )


def test_commands_that_do_work_take_a_configuration():
    assert {"train", "infer", "benchmark", "recalibrate", "robust-benchmark"} <= set(CONFIGURED)


# ---- files ----------------------------------------------------------------------------
FORMATS = {
    "c.json": '{"quantile": 0.9, "set": {"coreset_ratio": 0.05, "k": null}, "layers": ["a", "b"]}',
    "c.toml": 'quantile = 0.9\nlayers = ["a", "b"]\n[set]\ncoreset_ratio = 0.05\n',
    "c.yaml": "quantile: 0.9\nlayers: [a, b]\nset:\n  coreset_ratio: 0.05\n",
    "c.YML": "# a comment\nquantile: 0.9\nlayers:\n- a\n- b\nset: {coreset_ratio: 0.05}\n",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_formats(name, encoding, tmp_path):
    if "y" in name.lower():
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(FORMATS[name], encoding=encoding)
    options = parse("train", ["photos", "-o", "a", f"--config={tmp_path / name}"])
    assert (options["quantile"], options["layers"]) == (0.9, ["a", "b"])
    assert dict(options["set"])["coreset_ratio"] == 0.05


def test_yaml_without_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    assert benchmark.main(["--config", str(tmp_path / "c.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"pyimgano-benchmark: error: --config {tmp_path / 'c.yaml'} needs yaml, which is not "
        'installed. Install it with: python -m pip install "pyimgano[yaml]"'
    )


WRONG = [
    ("c.json", '{"seed": 1', "is not JSON: Expecting ',' delimiter, line 1, column 11"),
    ("c.json", '{"seed": 1, "seed": 2}', "the key 'seed' is there twice; keep one"),
    ("c.json", '{"set": {"k": 1, "k": 2}}', "the key 'k' is there twice; keep one"),
    ("c.json", '{"set": {"k": NaN}}', "NaN is no number of JSON"),
    ("c.json", '{"quantile": 1e999}', "1e999 is no number of JSON"),
    ("c.json", "[" * 100_000, "is nested too deeply"),
    ("c.json", "[1]", r"holds \[1\], and must hold a table of options"),
    ("c.yaml", "", "holds nothing, and must hold a table of options"),
    ("c.yaml", "seed: 1\nseed: 2\n", "the key 'seed' is there twice; keep one"),
    ("c.yaml", "seed: [1\n", "is not YAML: while parsing a flow sequence"),
    ("c.yaml", "1: 2\n", "has no option 1; there are dataset"),
    ("c.yaml", "set: {1: 2}\n", "set: 1 is no string; put it into quotes"),
    ("c.toml", "seed = 1\nseed = 2\n", "is not TOML: Cannot overwrite a value"),
    ("c.toml", "[set]\nday = 2026-01-31\n", "set: 2026-01-31 has no type of JSON; put it"),
    ("c.toml", "[set]\nk = inf\n", "set: inf is not finite"),
    ("c.toml", "quantile = nan\n", "quantile: nan is not finite"),
    ("c.toml", "split = 2026-01-31\n", "split must be a string, not 2026-01-31"),
    ("c.json", '{"schema_version": 1}', "notes what a run was asked for, without its folders"),
    ("c.toml", b"split = '\xff'\n", "is not UTF-8 at byte 9"),
    ("c.ini", "", r"--config .*c.ini: its name must end in .json, .toml, .yaml, .yml"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_files_that_are_no_configuration(name, content, message, tmp_path, capsys):
    if "y" in name:
        pytest.importorskip("yaml")
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert benchmark.main(["--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"pyimgano-benchmark: error: .*{re.escape(str(file))}: .*{message}", line) or (
        re.match(rf"pyimgano-benchmark: error: {message}", line)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"limit_train": 3}, "has no option limit_train; did you mean limit-train?"),
        ({"modle": "x"}, "has no option modle; did you mean model?"),
        ({"coreset_ratio": 0.1}, "; parameters of the model stand in the table set"),
        ({"list-models": True}, "list-models belongs on the command line, --list-models, and not"),
        ({"config": "d.json"}, "config belongs on the command line, --config, and not"),
        (
            {"model": "a", "pipeline": "b"},
            "model and pipeline exclude each other; give one",
        ),
        ({"model": "a", "preset": "embedded"}, "model and preset stand for the same; give one"),
        ({"quantile": 0.9, "calibration-quantile": 0.9}, "stand for the same; give one of them"),
        ({"quantile": "0.9"}, 'quantile must be a number, not "0.9"'),
        ({"quantile": 98}, "quantile: 98 is not above 0 and at most 1"),
        ({"seed": 1.0}, "seed must be an integer, not 1.0"),
        ({"seed": True}, "seed must be an integer, not true"),
        ({"seed": None}, "seed must be an integer, and is left out for the default, not null"),
        ({"seed": -1}, "seed: -1 is not at least 0"),
        ({"save-run": "no"}, 'save-run must be true or false, not "no"'),
        ({"resume": 3}, "resume must be true, false or a string, not 3"),
        ({"resize": ["64"]}, 'resize must be an integer or a list of them, not "64"'),
        ({"resize": []}, "resize must not be empty; leave it out for the default"),
        ({"category": {"a": 1}}, 'category must be a string or a list of them, not {"a": 1}'),
        ({"set": ["k=3"]}, 'set must be a table of names and values, not ["k=3"]'),
        ({"dataset": "mvtek"}, "dataset: there is no dataset 'mvtek'. Did you mean 'mvtec'?"),
        ({"joblib-backend": "lokey"}, "joblib-backend: 'lokey' is none of loky, dask"),
        ({"root": "x" * 99, "split": 1}, "split must be a string, not 1"),
    ],
)
def test_wrong_keys_and_values(content, message, tmp_path, capsys):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(content))
    assert benchmark.main(["--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pyimgano-benchmark: error: {file}: ") and message in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config"], "argument --config: expected one argument"),
        (["--config", "--json"], "argument --config: expected one argument"),
        (["--config", "no.json"], "no.json: No such file or directory"),
        (["--config", "a.json", "--config=b.json"], "--config is given 2 times; give one file"),
    ],
)
def test_wrong_uses_of_config(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--set", "--model-kwargs"])
@pytest.mark.parametrize("value", ['{"k": 1, "k": 2}', '{"k": NaN}', '{"k": 1e999}'])
def test_json_of_the_command_line_is_as_strict(option, value, capsys):
    text = value if option == "--model-kwargs" else f"a={value}"
    assert benchmark.main(["--dataset", "synthetic", option, text]) == 2
    assert re.search("is there twice|is no number of JSON", capsys.readouterr().err)


# ---- paths ----------------------------------------------------------------------------
def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "line [3]"
    folder.mkdir()
    (folder / "x[1].png").touch()
    (folder / "c.json").write_text(
        json.dumps(
            {
                "pipeline": "line3.joblib",
                "input": ["new", "*.png", "x[1].png", "-", str(tmp_path / "old")],
                "save-jsonl": "-",
                "save-csv": "v.csv",
                "weights": "imagenet",
                "device": "cpu",
            }
        )
    )
    options = parse("infer", ["--config", folder / "c.json"])
    assert options["pipeline"] == str(folder / "line3.joblib")
    pattern = str(tmp_path / "line [[]3]" / "*.png")
    there = [folder / "new", pattern, folder / "x[1].png", "-", tmp_path / "old"]
    assert options["input"] == [str(one) for one in there]
    assert options["save_csv"] == str(folder / "v.csv")
    for word, value in {"save_jsonl": "-", "weights": "imagenet", "device": "cpu"}.items():
        assert options[word] == value
    (folder / "d.json").write_text('{"roi": "1,2,30,40", "weights": "none"}')
    options = parse("train", ["photos", "-o", "a", "--config", folder / "d.json"])
    assert (options["roi"], options["weights"]) == ((1, 2, 30, 40), "none")
    # On the command line they are relative to the current folder, as ever.
    options = parse("infer", ["--config", folder / "c.json", "--save-csv", "w.csv", "new"])
    assert (options["save_csv"], options["input"]) == ("w.csv", ["new"])
    assert options["pipeline"] == str(folder / "line3.joblib")


@pytest.mark.parametrize("name", ["infer", "recalibrate"])
def test_words_without_a_name_override_images_and_not_the_pipeline(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text('{"pipeline": "p", "input": ["a", "b"]}')
    Path("d.json").write_text('{"input": ["a"]}')
    more = ["-o", "out"] if name == "recalibrate" else []
    for words, pipeline, images in [
        (["--config", "c.json"], "p", ["a", "b"]),
        (["--config", "c.json", "x", "y"], "p", ["x", "y"]),
        (["--config", "c.json", "--input", "x"], "p", ["x"]),
        (["--config", "c.json", "x", "--pipeline", "q"], "q", ["x"]),
        (["--config", "d.json", "q"], "q", ["a"]),
        (["--config", "d.json", "q", "x"], "q", ["x"]),
        (["--pipeline", "q", "--input", "x", "--", "y"], "q", ["y", "x"]),
    ]:
        options = parse(name, [*more, *words])
        assert (options["pipeline"], options["input"]) == (pipeline, images), words


def test_an_option_overrides_what_it_excludes(tmp_path):
    for content, words, model, pipeline in [
        ({"model": "a"}, [], "a", None),
        ({"model": "a"}, ["--pipeline", "p"], "industrial-fast", "p"),
        ({"model": "a"}, ["--preset=embedded"], "embedded", None),
        ({"preset": "embedded"}, ["--pipeline=p"], "industrial-fast", "p"),
        ({"pipeline": "/p"}, ["--model", "a"], "a", None),
        ({"pipeline": "/p"}, ["--preset", "embedded"], "embedded", None),
        ({"pipeline": "/p", "model": "industrial-fast"}, [], "industrial-fast", "/p"),
    ]:
        (tmp_path / "c.json").write_text(json.dumps(content))
        options = parse("benchmark", ["--config", tmp_path / "c.json", *words])
        assert (options["model"], options["pipeline"]) == (model, pipeline), (content, words)


# ---- runs -----------------------------------------------------------------------------
def test_commands_run_by_files_alone(tmp_path, capsys):
    write_inspection_dataset(
        tmp_path, "wood", n_train=8, n_test_good=2, n_test_defect=2, size=64, random_state=0
    )
    files = {
        "train": {
            "folder": "wood/train/good",
            "output": "line.joblib",
            "features": "filterbank",
            "resize": 32,
            "quantile": 0.8,
            "set": {"coreset_ratio": 0.1},
        },
        "infer": {"pipeline": "line.joblib", "input": "wood/test", "save-jsonl": "out.jsonl"},
        "recalibrate": {"pipeline": "line.joblib", "output": "b.joblib", "threshold": 3.5},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for module, name in ((train, "train"), (infer, "infer"), (recalibrate, "recalibrate")):
        assert module.main(["--config", str(tmp_path / f"{name}.json")]) == 0, capsys.readouterr()
    assert pyimgano.load(tmp_path / "line.joblib")[-1].estimator.coreset_ratio == 0.1
    assert pyimgano.load(tmp_path / "b.joblib")[-1].threshold_ == 3.5
    last = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[-1])
    assert last["n_images"] == 4


def test_the_umbrella_takes_a_configuration(tmp_path, capsys):
    (tmp_path / "c.json").write_text('{"dataset": "synthetic", "seed": 3}')
    with pytest.raises(SystemExit):
        main(["benchmark", "--config", str(tmp_path / "c.json"), "--dump-config", "--seed", "4"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["dataset"], printed["seed"]) == ("synthetic", 4)
