"""The scripts by which shells complete the commands."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from pyimgano.cli.main import COMMANDS, all_parsers, main


def test_without_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "pyimgano completion: error: pyimgano completion needs shtab, which is not installed. "
        'Install it with: python -m pip install "pyimgano[completion]"'
    )


def test_the_parser_of_all_commands_has_all_of_theirs():
    options = all_parsers().parse_args(["benchmark", "--dataset", "synthetic"])
    assert options.dataset == "synthetic"
    assert set(all_parsers()._subparsers._group_actions[0].choices) == set(COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_every_shell_has_a_script(shell, capsys):
    pytest.importorskip("shtab", reason="the extra completion is not installed")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "vision_patchcore" in script and "mvtec_ad_2" in script and "recalibrate" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path, capsys):
    pytest.importorskip("shtab", reason="the extra completion is not installed")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.png").touch()
    code = (
        "source ./script\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))\n'
        '_shtab_pyimgano "$1" "${!#}" "${COMP_WORDS[$COMP_CWORD - 1]}"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    for words, expected in {
        "pyimgano reca": {"recalibrate"},
        "pyimgano benchmark --dataset kol": {"kolektor_sdd", "kolektor_sdd2"},
        "pyimgano benchmark --model vision_pa": {"vision_padim", "vision_patchcore"},
        "pyimgano benchmark --preset emb": {"embedded"},
        "pyimgano train photos --out": {"--output", "--output-dir"},
        "pyimgano train pho": {"photos"},  # a folder
        "pyimgano infer pho": {"photos", "photo.png"},
        "pyimgano robust-benchmark --corruptions defo": {"defocus"},
        "pyimgano runs co": {"compare"},
    }.items():
        command = ["bash", "--norc", "-c", code, "bash", *words.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (set(done.stdout.split()), done.stderr) == (expected, ""), words
