"""Scores of fitted estimators stay the same, and so do those of files that users have.

The files were written by version 0.1 development commit e788199, see ``make.py``. With
``PYIMGANO_GOLDEN_EXACT=1`` all bits must be equal, which needs the machine and the libraries of
those files, or nearly so; otherwise floats may differ by rounding. Cases that depend on the version
of a library are skipped with other versions, except with ``PYIMGANO_GOLDEN_REQUIRED=1``, where it
is an error if none of them is left: one job of CI has the versions of the golden scores.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import joblib
import pytest

import pyimgano
from tests.golden import _cases, compare, make

pytestmark = pytest.mark.usefixtures("metrics_kept", "cross_fit")

HERE = Path(__file__).resolve().parent
GOLDEN: dict[str, Any] = json.loads((HERE / "golden.json").read_text("utf-8"))
EXACT = os.environ.get("PYIMGANO_GOLDEN_EXACT") == "1"

# Of what is fitted anew and of what is stored: rounding in a fit is amplified.
RTOL = {False: 1e-3, True: 1e-5}

NAMES = sorted(GOLDEN["cases"])
OF_FILES = [name for name in NAMES if _cases.CASES[name].file]
SAVED = [name for name in NAMES if _cases.CASES[name].saved]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Folder of the weights that cases name; a path in a file is relative to it."""
    folder = tmp_path_factory.mktemp("weights")
    _cases.write_weights(folder)
    return folder


@pytest.fixture(autouse=True)
def in_that_folder(weights, monkeypatch):
    monkeypatch.chdir(weights)


def differs(module: str, *, stored: bool) -> bool:
    """Tell whether this library's version may give other scores than the golden ones."""
    then, now = GOLDEN["versions"][module], make.version(module)
    if module == "numpy":  # it reads what its older versions stored, and computes the same
        return stored and now < then[:1]
    return now != then


def case_of(name: str, *, stored: bool) -> _cases.Case:
    """The case, unless this environment cannot have it."""
    case = _cases.CASES[name]
    for module in case.needs:
        pytest.importorskip(module)
    for module in GOLDEN["cases"][name]["of"]:
        if differs(module, stored=stored):
            pytest.skip(why_skipped(module))
    return case


def why_skipped(module: str) -> str:
    then, now = (".".join(map(str, v)) for v in (GOLDEN["versions"][module], make.version(module)))
    return (
        f"NOT CHECKED: these scores were made with {module} {then} and may differ with {now}; "
        "install that version to check them"
    )


def check(estimator: Any, name: str, *, stored: bool) -> None:
    case, entry = _cases.CASES[name], GOLDEN["cases"][name]
    # What a change was meant to move is moved in what is fitted, not in what is stored.
    expected = entry["results"] if stored else {**entry["results"], **entry.get("anew", {})}
    found = compare.described(_cases.outcome(estimator, case))
    if EXACT:
        problems = compare.differences(found, expected)
    else:
        if stored and case.by_bits:
            expected = {key: one for key, one in expected.items() if not key.endswith(" train")}
        rtol = 1e-2 if case.moves else RTOL[stored]
        problems = compare.differences(found, expected, rtol)
    assert not problems, "\n".join([f"{name}:", *problems])


def test_inputs_are_those_of_the_golden_scores():
    found = make.input_digests()
    assert {name: found[name] for name in GOLDEN["inputs"]} == GOLDEN["inputs"]


@pytest.mark.parametrize("module", sorted(GOLDEN["versions"]))
def test_the_cases_of_a_library_are_checked_where_they_have_to_be(module):
    if not differs(module, stored=True):
        return
    if os.environ.get("PYIMGANO_GOLDEN_REQUIRED") == "1":
        pytest.fail(
            f"every golden score that depends on {module} would be skipped in the one environment "
            f"that has to check them. {why_skipped(module)}."
        )
    pytest.skip(why_skipped(module))


@pytest.mark.parametrize("name", NAMES)
def test_fitted_anew_scores_the_same(name):
    check(_cases.made(case_of(name, stored=False)), name, stored=False)


@pytest.mark.parametrize("name", OF_FILES)
def test_files_of_the_previous_release_score_the_same(name):
    case_of(name, stored=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other versions may say so
        estimator = joblib.load(HERE / "files" / f"{name}.joblib")
    check(estimator, name, stored=True)


@pytest.mark.parametrize("name", SAVED)
def test_saved_files_of_the_previous_release_load_and_score_the_same(name):
    case_of(name, stored=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = pyimgano.load(HERE / "files" / "saved" / f"{name}.joblib")
    check(estimator, name, stored=True)


def test_every_name_in_those_files_is_known():
    for line in (HERE / "names.txt").read_text("utf-8").splitlines():
        module, name = line.split()
        assert hasattr(importlib.import_module(module), name), line
