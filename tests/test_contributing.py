"""The code in CONTRIBUTING.md works."""

from __future__ import annotations

import doctest
import re
import sys
import textwrap
import types
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", TEXT, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


@pytest.mark.filterwarnings("ignore")
def test_the_detector_passes_both_batteries(monkeypatch):
    (code,), (session,) = blocks("python"), blocks("pycon")
    module = types.ModuleType("mean_patch")  # where pickle finds the class
    monkeypatch.setitem(sys.modules, "mean_patch", module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), vars(module))
    test = doctest.DocTestParser().get_doctest(session, dict(vars(module)), "session", None, 0)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    results = runner.run(test, out=output.append)
    assert results.attempted == 7
    assert results.failed == 0, "".join(output)
