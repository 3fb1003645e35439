"""The environment of a result: interpreter, machine and package versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata

from threadpoolctl import threadpool_info

from pyimgano._version import __version__

__all__ = ["environment", "git_state", "package_versions", "scoring_versions"]

# Distributions whose versions can change a score. OpenCV comes under four names.
_SCORING_PACKAGES = (
    "numba",
    "numpy",
    "onnxruntime",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "pyod",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)
# What else pyimgano uses.
_OTHER_PACKAGES = ("joblib", "tqdm")


def package_versions() -> dict[str, str]:
    """Versions of pyimgano and of what is installed of its dependencies; imports none.

    Returns
    -------
    dict of str to str
        Distribution name to version, sorted. What is not installed is left out.
    """
    found = {**_versions_of(_SCORING_PACKAGES), **_versions_of(_OTHER_PACKAGES)}
    return dict(sorted({"pyimgano": __version__, **found}.items()))


def scoring_versions() -> dict[str, str]:
    """Versions of pyimgano and of those dependencies that can change a score.

    Returns
    -------
    dict of str to str
        Distribution name to version. What is not installed is left out.
    """
    return {"pyimgano": __version__, **_versions_of(_SCORING_PACKAGES)}


@lru_cache
def _versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def environment() -> dict[str, object]:
    """Describe interpreter, machine and packages, in plain JSON types.

    Returns
    -------
    dict
        ``python``, ``implementation``, ``platform``, ``machine``, ``cpu`` (name of the
        processor), ``cpu_count`` (logical processors), ``cpu_usable`` (those this process may run
        on), ``blas`` (libraries of linear algebra that are loaded), ``cuda`` (version
        and devices, if torch is in use), ``threads`` (the variables that limit threads, where
        set) and ``packages``.
    """
    usable = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # Linux only
        usable = len(os.sched_getaffinity(0))
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _processor(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": usable,
        "blas": _libraries(),
        "cuda": _cuda(),
        "threads": {name: os.environ[name] for name in limits if name in os.environ},
        "packages": package_versions(),
    }


@lru_cache
def _processor() -> str | None:
    """Name of the processor, None if the system does not tell."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or None


def git_state() -> dict[str, object] | None:
    """Commit of the git repository that the working directory is in.

    Returns
    -------
    dict or None
        ``commit``, and ``modified``: whether tracked files differ from it. None outside of a
        repository, in one without a commit, or where there is no git.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    # Files that git does not track may be a whole dataset, which would take long to list.
    status = _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None
    return {"commit": commit, "modified": bool(status)}


def _git(*arguments: str) -> str | None:
    # The repository's settings must not name a program to be started, nor an index be written.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _libraries() -> list[dict[str, str | None]]:
    loaded = [one for one in threadpool_info() if one["user_api"] == "blas"]
    found = {(one["internal_api"], one["version"]) for one in loaded}
    return [
        {"name": name, "version": version} for name, version in sorted(found, key=lambda x: str(x))
    ]


def _cuda() -> dict[str, object] | None:
    torch = sys.modules.get("torch")  # importing it for this would take seconds
    if torch is None or not torch.cuda.is_available():
        return None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"version": torch.version.cuda, "devices": devices}
