"""Run directories while something is run in them: opened, begun, gone on with, and ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyimgano.benchmark._run_dir import SCHEMA_VERSION, RunDirectory
from pyimgano.exceptions import RunError
from pyimgano.utils import environment
from pyimgano.utils._environment import git_state
from pyimgano.utils._json import as_plain_json
from pyimgano.utils._outputs import exclusive_folder, is_out_of_room
from pyimgano.utils._warning import warn_user

__all__ = ["RunStoppedError", "open_run", "running"]


class RunStoppedError(OSError):
    """The system's error that ended a run after it had begun; its text says what there is."""


def open_run(
    output_dir: str | os.PathLike[str] | None,
    resume: bool | str | os.PathLike[str],
    config: Mapping[str, Any],
    name: str,
) -> RunDirectory:
    """Open the run to go on with, or a new one.

    Parameters
    ----------
    output_dir : str, Path or None
        Folder of runs; None where ``resume`` is a path.
    resume : bool, str or Path
        True goes on with the newest run of ``output_dir`` that was asked for the same, if there is
        one; a path is that of a run.
    config : mapping
        As ``write_config`` writes it.
    name : str
        Stands last in the name of a new run.

    Returns
    -------
    RunDirectory

    Raises
    ------
    RunError
        If the run to go on with is none, or was asked for something else.
    """
    if not isinstance(resume, bool):
        run = RunDirectory(resume)
        if not run.config.is_file():
            raise RunError(
                f"resume={os.fspath(resume)!r} is no run directory: it has no {run.config.name}."
            )
        differing = _differing(run.read_config(), config)
        if differing:
            raise RunError(
                f"the run in {run.path} was asked for something else: {', '.join(differing)} "
                f"differ. See {run.config}; give the same arguments, or start a new run."
            )
        return run
    found = RunDirectory.find(str(output_dir), config) if resume else None
    if resume and found is None:
        _warn_of_unfinished(str(output_dir), config)
    return found or RunDirectory.create(str(output_dir), config["dataset"], name)


#: What a key that a mapping lacks stands for; ``None`` would equal a value.
_LACKS = object()


def _differing(asked: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Name what differs, parameters by the way that leads to them."""
    return sorted(_places(asked, config, ()))


def _places(one: Any, other: Any, way: tuple[str, ...]) -> Iterator[str]:
    if one == other:
        return
    described = isinstance(one, Mapping) and isinstance(other, Mapping)
    if not described or one.get("class") != other.get("class"):
        yield ".".join(key for key in way if key != "params")
        return
    for key in {*one, *other}:
        yield from _places(one.get(key, _LACKS), other.get(key, _LACKS), (*way, key))


def _warn_of_unfinished(output_dir: str, config: Mapping[str, Any]) -> None:
    """Say why the newest unfinished run is not gone on with, if there is one."""
    for run in RunDirectory.newest_first(output_dir):
        if run.is_complete:
            continue
        differing = _differing(run.read_config(), config)
        warn_user(
            f"resume: a new run is begun, since none in {output_dir} was asked for the same; the "
            f"unfinished {run.path} differs in {', '.join(differing)}."
        )
        return


@contextmanager
def running(run: RunDirectory, config: Mapping[str, Any]) -> Iterator[None]:
    """Keep other processes out of a run directory, and write what is known before the run begins.

    If the run ends early, a directory in which nothing was kept is removed, and what is there is
    added to the error of a full disk, to Ctrl-C and to SIGTERM.

    Parameters
    ----------
    run : RunDirectory
    config : mapping
        Written to ``config.json``, unless it is there.

    Raises
    ------
    RunError
        If the run was begun with other versions of packages.
    RunStoppedError
        In place of an error of the system.
    """
    with exclusive_folder(run.path):
        begun = False
        try:
            _begin(run, config)
            begun = True
            yield
        except BaseException as error:
            run.discard_if_empty()
            if isinstance(error, OSError) and error.errno and (begun or is_out_of_room(error)):
                what = f"{error.strerror}; stopped, {run.what_there_is()}"
                raise RunStoppedError(error.errno, what, error.filename) from error
            if not isinstance(error, Exception):  # Ctrl-C or SIGTERM
                # As add_note does, which Python has from 3.11 on.
                vars(error).setdefault("__notes__", []).append(run.what_there_is())
            raise


def _begin(run: RunDirectory, config: Mapping[str, Any]) -> None:
    """Write what is known before the first category, unless it is there."""
    if not run.config.exists():
        run.write_config(config)
    here = {"schema_version": SCHEMA_VERSION, **environment(), "git": git_state()}
    if not run.environment.exists():
        run.write_environment(here)
        return
    before, now = run.read_environment()["packages"], as_plain_json(here)["packages"]
    for package in sorted({*before, *now}):
        if before.get(package) != now.get(package):
            raise RunError(
                f"the run in {run.path} was begun with {package} {before.get(package)}, and here "
                f"is {now.get(package)}, which can change results: start a new run."
            )
