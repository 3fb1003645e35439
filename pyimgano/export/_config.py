"""``infer_config.json``: what a delivered pipeline is, in a file that people and programs read.

The pipeline in the joblib file decides; the configuration describes it, and
:func:`pyimgano.export.validate` finds where the two disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from pyimgano._any_estimator import threshold
from pyimgano._nesting import all_parts, find_calibrator, find_defects, find_parts, walk
from pyimgano._version import __version__
from pyimgano.exceptions import BundleError
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.tiling import TilingTransformer
from pyimgano.utils._environment import environment
from pyimgano.utils._json import as_plain_json

__all__ = ["SCHEMA_VERSION", "describe", "infer_config", "json_schema", "read_infer_config"]

#: Goes up when a file changes so that a program which reads the older one fails.
SCHEMA_VERSION = 2
_SCHEMAS = ("infer_config", "manifest", "validation")
# More than any configuration has.
_LARGEST = 2**22


def json_schema(name: str) -> dict[str, Any]:
    """Give the JSON Schema of a file of a bundle.

    Parameters
    ----------
    name : {"infer_config", "manifest", "validation"}
        ``validation`` is what ``pyimgano validate-infer-config`` prints.

    Returns
    -------
    dict

    Examples
    --------
    >>> from pyimgano.export import json_schema
    >>> "threshold" in json_schema("infer_config")["required"]
    True
    """
    if name not in _SCHEMAS:
        raise ValueError(f"name must be one of {', '.join(map(repr, _SCHEMAS))}, got {name!r}.")
    text = files("pyimgano.export").joinpath(f"schemas/{name}.schema.json").read_text("utf-8")
    return json.loads(text)


def describe(estimator: Any) -> dict[str, Any]:
    """Describe a fitted estimator, in plain JSON types.

    Parameters
    ----------
    estimator : fitted estimator
        As :func:`infer_config` takes it.

    Returns
    -------
    dict
        The part of the configuration that follows from the estimator alone.
    """
    normalizers = find_parts(estimator, ImageFormatNormalizer)
    calibrator = find_calibrator(estimator)
    found = {
        "classes": list(dict.fromkeys(type(part).__name__ for part in all_parts(estimator))),
        "networks": _networks(estimator),
        "input_format": _plain(normalizers[0].input_format) if normalizers else "rgb_u8_hwc",
        "u16_max": normalizers[0].u16_max if normalizers else 65535,
        "preprocessing": _steps(estimator),
        "tiling": next(map(_parameters, find_parts(estimator, TilingTransformer)), None),
        "threshold": {
            "value": threshold(estimator),
            "provenance": None if calibrator is None else calibrator.provenance_,
        },
        "pixel_threshold": None,
        "defects": None,
    }
    pixels = find_defects(estimator)
    if pixels is not None:
        provenance = pixels.pixel_provenance_
        found["pixel_threshold"] = {"value": pixels.pixel_threshold_, "provenance": provenance}
        found["defects"] = _parameters(pixels.extractor_)
    return as_plain_json(found)


def infer_config(
    estimator: Any, *, file: str, sha256: str, size: int, created: str
) -> dict[str, Any]:
    """Make the configuration of a fitted estimator that is saved in a file.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or a pipeline or calibrator that ends in one, as it was saved.
    file : str
        Path of the saved file from the folder of the configuration, with ``/``.
    sha256 : str
        Of the saved file.
    size : int
        Of the saved file, in bytes.
    created : str
        Time of the delivery, as ISO 8601 writes it.

    Returns
    -------
    dict
        In plain JSON types, as the schema ``infer_config`` describes it.
    """
    about = describe(estimator)
    model = {"file": file, "sha256": sha256, "size": size}
    model.update(classes=about.pop("classes"), networks=about.pop("networks"))
    return as_plain_json(
        {
            "schema_version": SCHEMA_VERSION,
            "pyimgano": __version__,
            "created": created,
            "model": model,
            "environment": environment(),
            **about,
        }
    )


def read_infer_config(path: Any) -> dict[str, Any]:
    """Read a configuration, also one of an earlier version.

    Parameters
    ----------
    path : str or Path
        The file ``infer_config.json``.

    Returns
    -------
    dict
        As this version would have written it. What an earlier version did not know is None.

    Raises
    ------
    BundleError
        If it is no such file, or one of a later version.
    FileNotFoundError
        If there is none.
    """
    return as_current(read_object(path), path)


def read_object(path: Any) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    with open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise BundleError(f"{path}: has more than {_LARGEST:,} bytes, too many for what it is.")
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is damaged, not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise BundleError(f"{path}: is no JSON object, but a {type(found).__name__}.")
    return found


def as_current(config: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Bring a configuration of an earlier version up to date, one version after the other."""
    version = config.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise BundleError(
            f"{path}: has schema_version {version!r}, and this pyimgano {__version__} reads 1 to "
            f"{SCHEMA_VERSION}: install the pyimgano that the bundle was made with, or make the "
            "bundle anew."
        )
    current = dict(config)
    for old in range(version, SCHEMA_VERSION):
        try:
            current = _MIGRATIONS[old](current)
        except KeyError as error:
            raise BundleError(
                f"{path}: is no infer_config.json of version {version}: it lacks {error}."
            ) from error
        except (TypeError, AttributeError) as error:
            raise BundleError(
                f"{path}: is no infer_config.json of version {version} ({error!r})."
            ) from error
    return current


def _from_1(config: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the bare number of the threshold, and knew no defects and no engines."""
    config = dict(config)
    provenance = config.pop("threshold_provenance", None)
    config["threshold"] = {"value": float(config["threshold"]), "provenance": provenance}
    networks = [{"engine": "auto", **one} for one in config["model"]["networks"]]
    config["model"] = {**config["model"], "networks": networks}
    return {**config, "pixel_threshold": None, "defects": None, "schema_version": 2}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


# ---- parts of an estimator ------------------------------------------------------------
def _networks(estimator: Any) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for step in find_parts(estimator, BaseNetworkFeatures):
        if not hasattr(step, "weights_sha256_"):
            continue
        found.setdefault(
            step.weights_sha256_,
            {
                "backbone": _plain(step.backbone),
                "engine": step.engine,
                "weights_sha256": step.weights_sha256_,
                "embedded": hasattr(step, "embedded_weights_"),
                "file": Path(getattr(step, "weights_file_", "")).name or None,
                "file_sha256": getattr(step, "weights_file_sha256_", None),
                "file_size": getattr(step, "weights_file_size_", None),
            },
        )
    return list(found.values())


def _steps(estimator: Any) -> list[dict[str, Any]]:
    """The steps before the detector, from the outermost pipeline inward."""
    steps = []
    for one, _ in walk(estimator):
        if isinstance(one, Pipeline):
            steps += [step for _, step in one.steps[:-1] if step not in (None, "passthrough")]
    return [{"step": type(step).__name__, "parameters": _parameters(step)} for step in steps]


def _parameters(step: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in step.get_params(deep=False).items()}


def _plain(value: Any) -> Any:
    """A parameter in JSON; what has no form there is written as Python shows it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, BaseEstimator):
        return " ".join(repr(value).split())
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape}, {value.dtype}"
    return repr(value)
