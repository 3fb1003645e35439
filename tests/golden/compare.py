"""Results as they stand in ``golden.json``, and how two of them are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["described", "differences"]

Described = dict[str, Any]

# Arrays with more values than that are kept as a sha256 and a few of their values.
_WHOLE = 64
_SAMPLE = 8


def described(results: Mapping[str, Any]) -> dict[str, Described]:
    """Results in plain JSON types, floats as ``float.hex`` writes them, to the last bit.

    Parameters
    ----------
    results : dict
        Arrays, numbers and strings by name.

    Returns
    -------
    dict of str to dict
        ``text``; or ``dtype``, ``shape``, ``values`` and, where these are not all values,
        ``sha256`` of the bytes of the whole array.
    """
    return {name: _described(value) for name, value in results.items()}


def _described(value: Any) -> Described:
    if isinstance(value, str):
        digest = hashlib.sha256(value.encode()).hexdigest()
        return {"text": value if len(value) <= 64 else f"sha256 {digest}"}
    array = np.ascontiguousarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{array.dtype} is no number: {value!r}")
    flat = array.ravel()
    about: Described = {"dtype": array.dtype.name, "shape": list(np.shape(value))}
    if flat.size > _WHOLE:
        about["sha256"] = hashlib.sha256(flat.tobytes()).hexdigest()
        flat = flat[np.linspace(flat.size // 37, flat.size - 1, _SAMPLE).astype(int)]
    floats = flat.dtype.kind == "f"
    about["values"] = " ".join(float(x).hex() if floats else str(int(x)) for x in flat)
    return about


def differences(
    found: Mapping[str, Described], expected: Mapping[str, Described], rtol: float = 0.0
) -> list[str]:
    """Describe each difference in a sentence.

    Parameters
    ----------
    found, expected : dict of str to dict
        As ``described`` makes them. What is found beyond what is expected does not count.
    rtol : float, default=0
        0 asks for equal bits. Otherwise floats may differ by that share of the largest of
        their array, as far as its values are kept. Labels may differ where a score lies that
        near to the threshold, pixels by one level, and other integers not at all.

    Returns
    -------
    list of str
        Empty where all is the same.
    """
    sentences = []
    for name, wanted in expected.items():
        one = found.get(name)
        if one is None:
            sentences.append(f"{name}: is missing")
        elif one != wanted and not (rtol and _is_near(name, one, expected, rtol)):
            sentences.append(f"{name}: {_in_words(one, wanted)}")
    return sentences


def _is_near(name: str, one: Described, expected: Mapping[str, Described], rtol: float) -> bool:
    wanted = expected[name]
    if not _comparable(one, wanted):
        return False
    a, b = _values(one), _values(wanted)
    if name.startswith("predict "):
        clear = np.abs(_margins(name, expected)) > rtol * _scale(name, expected)
        return bool((a == b)[clear].all())
    if wanted["dtype"].startswith("float"):
        return bool(np.abs(a - b).max() <= rtol * _scale(name, expected))
    return wanted["dtype"] == "uint8" and bool(np.abs(a - b).max() <= 1)


def _margins(name: str, expected: Mapping[str, Described]) -> np.ndarray:
    """Distances of the scores behind some labels from the threshold."""
    own = name.replace("predict", "decision_function")
    if own in expected:
        return _values(expected[own])
    constant = _values(expected["decision_function test"]) - _values(expected["score_samples test"])
    return _values(expected[name.replace("predict", "score_samples")]) + constant[0]


def _scale(name: str, expected: Mapping[str, Described]) -> float:
    """Largest absolute value; of labels and of distances to the threshold, that of the scores."""
    method, _, part = name.partition(" ")
    names = {name}
    if method in ("predict", "decision_function"):
        names = {f"score_samples {part}", f"decision_function {part}"} & expected.keys()
    return max(float(np.abs(_values(expected[one])).max()) for one in names)


def _comparable(one: Described, wanted: Described) -> bool:
    kinds = [(about.get("dtype"), about.get("shape")) for about in (one, wanted)]
    return kinds[0] == kinds[1] and "values" in wanted


def _values(about: Described) -> np.ndarray:
    floats = about["dtype"].startswith("float")
    return np.array([float.fromhex(x) if floats else int(x) for x in about["values"].split()])


def _in_words(one: Described, wanted: Described) -> str:
    if not _comparable(one, wanted):
        return f"{one}, expected {wanted}"
    a, b = _values(one).astype(float), _values(wanted).astype(float)
    largest = np.abs(b).max() or 1.0
    away = np.abs(a - b).max() / largest
    return f"has other bits; the kept values are off by {away:.1e} of the largest"
