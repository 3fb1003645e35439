"""Bundles: a pipeline, what it is, how it has to score, and a checksum of every file.

::

    line3/                        or line3.zip
      pipeline.joblib (+ .json)   the pipeline, see pyimgano.load
      onnx/*                      its network for engines that read ONNX, if asked for
      golden/*                    images whose scores are known
      infer_config.json           what the pipeline is, and the scores of the golden images
      model_card.md, model_card.html
      manifest.json               size and SHA-256 of every other file

A bundle holds no absolute path, and none of its files names the machine it was made on.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sklearn.base import BaseEstimator

from pyimgano._any_estimator import anomaly_scores, threshold
from pyimgano._decision import is_anomalous
from pyimgano._nesting import all_parts, find_parts
from pyimgano.backbones._engines import ENGINE_EXTRAS
from pyimgano.backbones._onnx import OnnxFiles
from pyimgano.detectors.trained import BaseTrainedDetector
from pyimgano.exceptions import BundleError, MissingExtraError, SampleError
from pyimgano.export._card import card_html, card_markdown
from pyimgano.export._config import (
    as_current,
    describe,
    infer_config,
    read_object,
)
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.persistence import load, read_map_range, save
from pyimgano.persistence._networks import networks_embedded
from pyimgano.utils._clock import utc_now
from pyimgano.utils._json import as_plain_json, write_json
from pyimgano.utils._outputs import atomic_folder, atomic_write

__all__ = [
    "CONFIG",
    "MANIFEST",
    "Bundle",
    "differences",
    "export_bundle",
    "file_entry",
    "listed_files",
    "open_bundle",
    "unpacked",
]

CONFIG, MANIFEST = "infer_config.json", "manifest.json"
_PIPELINE, _CARD = "pipeline.joblib", "model_card"
# What tells a network from others, see BaseNetworkFeatures.onnx_identity.
_ONNX_IDENTITY = ("backbone", "layers", "weights_sha256")
_BLOCK = 2**20
# Files and bytes of a packed bundle, against archives that unpack to more than a disk holds:
# deflate makes zeros a thousandth of their length, and banks of features are no zeros.
_MOST_FILES, _MOST_TIMES = 10_000, 200
# What zipfile raises on damaged archives; RuntimeError is for those with a password.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError),
    ValueError,
)


class Bundle(NamedTuple):
    """A delivered pipeline.

    Parameters
    ----------
    estimator : estimator
        The pipeline.
    config : dict
        Content of ``infer_config.json``, as this version would have written it.
    map_range : (float, float) or None
        Scale of the colors of heat maps.
    """

    estimator: Any
    config: dict[str, Any]
    map_range: tuple[float, float] | None


def export_bundle(
    estimator: Any,
    output: str | os.PathLike[str],
    *,
    golden: Sequence[str | os.PathLike[str]] = (),
    embed_weights: bool = True,
    title: str | None = None,
    notes: str = "",
    map_range: tuple[float, float] | None = None,
    onnx: bool | str = "auto",
) -> Path:
    """Make a bundle of a fitted pipeline: a folder or archive that can be checked where it is used.

    Parameters
    ----------
    estimator : fitted estimator, str or Path
        An outlier detector, or a pipeline or calibrator that ends in one; or the file that
        :func:`~pyimgano.persistence.save` wrote. It is not changed.
    output : str or Path
        A folder to create, or a name that ends in ``.zip`` for an archive. It must not exist; an
        interrupted export leaves nothing under this name.
    golden : sequence of paths, default=()
        Images whose scores are kept with the bundle, copied as they are. Choose some good parts
        and some defective ones: :func:`validate` scores them again where the bundle is used.
    embed_weights : bool, default=True
        Put the weights of all networks into the pipeline's file, so that the bundle needs nothing
        else. With False it holds their SHA-256, and they are looked for where it is used.
    title : str, default=None
        First line of the model card; None takes the name of ``output``.
    notes : str, default=""
        Text for the model card: what the parts are, which camera, who made it.
    map_range : (float, float), default=None
        Scale of the colors of heat maps, as in :func:`~pyimgano.persistence.save`. None
        takes that of the saved file, if ``estimator`` is one.
    onnx : bool or "auto", default="auto"
        Put the networks into the bundle as ONNX files, by which the engines onnxruntime and
        OpenVINO run them where it is used, without the package ``onnx``, without torch and
        without a cache folder. ``"auto"`` does so for networks whose ``engine`` is one of these,
        as far as is known for which sizes of images: networks that torch has converted take
        images of one size, which is that of ``resize``, or those of the golden images. Networks
        that a detector has trained run in torch wherever they are used, except for the student of
        :class:`~pyimgano.detectors.STFPMDetector`.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    BundleError
        If a golden image cannot be scored, or ``output`` cannot be made; with ``onnx=True`` also
        if there is no network, or the sizes of its images are not known.
    WeightsError
        With ``embed_weights``, if the weights are not to be found.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pyimgano
    >>> from pyimgano.export import export_bundle, open_bundle, validate
    >>> rows = np.random.RandomState(0).normal(size=(50, 4))
    >>> detector = pyimgano.PatchCoreDetector().fit(rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_bundle(detector, f"{folder}/line3.zip")
    ...     again = open_bundle(path).estimator
    ...     ok = validate(path).ok
    >>> ok, bool((again.predict(rows) == detector.predict(rows)).all())
    (True, True)
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise BundleError(f"{output.parent}: this folder does not exist; create it first.")
    packed = output.suffix.lower() == ".zip"
    if os.path.lexists(output) and (packed or not output.is_dir() or any(output.iterdir())):
        raise BundleError(f"{output} exists; give another name, or move it away.")
    if isinstance(estimator, (str, os.PathLike)):
        map_range = read_map_range(estimator) if map_range is None else map_range
        estimator = load(estimator)
    threshold(estimator)  # what is no outlier detector is refused before anything is written
    if onnx not in (True, False, "auto"):
        raise ValueError(f'onnx must be True, False or "auto", got {onnx!r}.')
    images = [Path(one) for one in golden]
    for one in images:
        if not one.is_file():
            raise BundleError(f"golden image {one}: there is no such file.")
    networks = _fitted_networks(estimator)  # which know the folders of their weights
    if onnx is not True:
        networks = [one for one in networks if onnx and one.engine in ENGINE_EXTRAS]
    elif not networks:
        raise BundleError("onnx=True: the pipeline has no network to write as ONNX.")
    estimator = _copied(estimator, embed_weights)
    about = {"title": title or output.name.removesuffix(".zip"), "notes": notes}
    if not packed:
        with atomic_folder(output) as folder:
            _write(estimator, folder, images, about, map_range, networks, onnx is True)
        return output
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(estimator, folder, images, about, map_range, networks, onnx is True)
        with atomic_write(output) as file, zipfile.ZipFile(file, "w") as archive:
            for name in [*listed_files(read_object(folder / MANIFEST), output), MANIFEST]:
                archive.write(folder / name, name)
    return output


def open_bundle(path: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> Bundle:
    """Load the pipeline of a bundle, provided that its files are those that were delivered.

    The sizes and SHA-256 of the configuration and the pipeline are compared with the manifest,
    and what the configuration says with what the pipeline is.

    Parameters
    ----------
    path : str or Path
        A folder, an archive, or the ``infer_config.json`` of a pipeline that lies beside it.
    trusted : sequence of str, default=()
        As in :func:`~pyimgano.persistence.load`.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If it is no bundle, or not the one that was delivered; the message names the file.
    UntrustedFileError
        If the pipeline's file is damaged or not admitted.
    """
    with unpacked(path) as (folder, name):
        manifest, entries = folder / MANIFEST, None
        if name == CONFIG and manifest.is_file():
            entries = listed_files(read_object(manifest), path)
            _check_files(folder, [CONFIG], entries, path)
        config = as_current(read_object(folder / name), f"{path}: {name}")
        file = model_file(folder, config, path)
        if entries is not None:
            model = config["model"]["file"]
            _check_files(folder, [model, f"{model}.json", *onnx_names(config)], entries, path)
        estimator = load(file, trusted=trusted, sha256=config["model"]["sha256"])
        found = differences(config, estimator)
        if found:
            raise BundleError(f"{path}: {name} does not describe the pipeline: {found[0]}.")
        use_onnx(estimator, config, folder, path)
        return Bundle(estimator, config, read_map_range(file))


def differences(config: dict[str, Any], estimator: Any) -> list[str]:
    """Find where a configuration says something else than the pipeline is.

    Parameters
    ----------
    config : dict
        Content of ``infer_config.json``.
    estimator : estimator
        The pipeline that it belongs to.

    Returns
    -------
    list of str
        What the two say, one text for each disagreement.
    """
    actual = describe(estimator)
    told = {**config, **config.get("model", {})}
    found = []
    for key, value in actual.items():
        if told.get(key) != value:
            here, there = told.get(key), value
            if key in ("threshold", "pixel_threshold") and isinstance(here, dict) and there:
                here, there = here.get("value"), there["value"]
                if here == there:
                    key, here, there = f"the provenance of the {key}", "something else", "another"
            found.append(f"{key} is {_shown(here)} in it and {_shown(there)} in the pipeline")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- files ----------------------------------------------------------------------------
def file_entry(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(_BLOCK):
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def file_problem(folder: Path, name: str, entry: Any) -> str | None:
    """Say in which way a file is not the one that the manifest lists; None if it is."""
    if entry is None:
        return f"{name} is not in {MANIFEST}"
    path = folder / name
    if os.path.islink(path) or not os.path.isfile(path):  # also if a name is too long for a file
        return f"{name} is missing"
    found = file_entry(path)
    if found != entry:
        return (
            f"{name} was changed: it has {found['size']:,} bytes with the SHA-256 "
            f"{found['sha256'][:12]}..., and {MANIFEST} lists {entry['size']:,} bytes with "
            f"{entry['sha256'][:12]}..."
        )
    return None


def _check_files(folder: Path, names: list[str], entries: dict[str, Any], path: Any) -> None:
    for name in names:
        problem = file_problem(folder, name, entries.get(name))
        if problem is not None:
            raise BundleError(f"{path}: {problem}.")


def listed_files(manifest: dict[str, Any], path: Any) -> dict[str, dict[str, Any]]:
    """Files that a manifest lists, by names that lead nowhere else."""
    if manifest.get("schema_version") != 1:
        raise BundleError(
            f"{path}: {MANIFEST} has schema_version {manifest.get('schema_version')!r}, and this "
            "pyimgano reads 1: install the pyimgano that the bundle was made with."
        )
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{path}: {MANIFEST} lists no files.")
    for name, entry in files.items():
        if not _is_inside(name):
            raise BundleError(f"{path}: {MANIFEST} lists {name!r}, which is no file of a bundle.")
        if (
            not isinstance(entry, dict)
            or set(entry) != {"size", "sha256"}
            or type(entry["size"]) is not int
            or not isinstance(entry["sha256"], str)
        ):
            raise BundleError(f"{path}: {MANIFEST} has no size and SHA-256 of {name!r}.")
    return files


def model_file(folder: Path, config: dict[str, Any], path: Any) -> Path:
    """The pipeline's file, which lies beside the configuration or below it."""
    model = config.get("model")
    name = model.get("file") if isinstance(model, dict) else None
    if not isinstance(name, str) or not _is_inside(name):
        raise BundleError(f"{path}: names {name!r} as its pipeline, which is no file beside it.")
    if not re.fullmatch("[0-9a-f]{64}", str(config["model"].get("sha256"))):
        raise BundleError(f"{path}: has no SHA-256 of its pipeline.")
    if not os.path.isfile(folder / name):
        raise BundleError(f"{path}: {name} is missing.")
    return folder / name


def onnx_names(config: dict[str, Any]) -> list[str]:
    """Files of the networks as ONNX that a configuration names."""
    return [entry["file"] for _, files, _ in _onnx_entries(config) for entry in files]


def _onnx_entries(
    config: dict[str, Any],
) -> list[tuple[dict[str, Any], list[dict[str, Any]], tuple[int, int] | None]]:
    """Identity, files and patch size of each network that was delivered as ONNX."""
    found = []
    for one in config["model"].get("onnx", []):
        try:
            identity = {name: one[name] for name in _ONNX_IDENTITY}
            patch_size = None if one["patch_size"] is None else _two(one["patch_size"])
            files = [
                {
                    "file": str(entry["file"]),
                    "sha256": str(entry["sha256"]),
                    "size": None if entry["image_size"] is None else _two(entry["image_size"]),
                }
                for entry in one["files"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{CONFIG} names networks as ONNX wrongly ({error!r}).") from error
        found.append((identity, files, patch_size))
    return found


def _two(values: Any) -> tuple[int, int]:
    height, width = values
    return int(height), int(width)


def use_onnx(estimator: Any, config: dict[str, Any], folder: Path, path: Any) -> None:
    """Hand the networks that were delivered as ONNX to the steps that they belong to.

    Parameters
    ----------
    estimator : estimator
        As it was loaded.
    config : dict
    folder : Path
    path : str or Path
        Name of the bundle, for messages.

    Raises
    ------
    BundleError
        If a file is not the one of the configuration. No engine has read it then.
    """
    for identity, files, patch_size in _onnx_entries(config):
        content: dict[tuple[int, int] | None, bytes] = {}
        for entry in files:
            name = entry["file"]
            if not _is_inside(name) or not os.path.isfile(folder / name):
                raise BundleError(f"{path}: {name!r} is missing, a network as ONNX.")
            # What is compared is what is used: the file is read once.
            model = (folder / name).read_bytes()
            if hashlib.sha256(model).hexdigest() != entry["sha256"]:
                raise BundleError(f"{path}: {name} was changed: {CONFIG} has another SHA-256.")
            content[entry["size"]] = model
        for step in _fitted_networks(estimator):
            if step.onnx_identity() == identity:
                step.use_onnx(OnnxFiles(content, patch_size))


def _fitted_networks(estimator: Any) -> list[BaseNetworkFeatures]:
    steps = [
        step
        for step in find_parts(estimator, BaseNetworkFeatures)
        if hasattr(step, "weights_sha256_")
    ]
    for detector in find_parts(estimator, BaseTrainedDetector):
        steps += detector.trained_steps()
    return steps


def _is_inside(name: str) -> bool:
    """Tell whether a name with ``/`` is that of a file below a folder, on every system."""
    parts = name.split("/")
    return all(part and re.fullmatch(r"[^\\:*?\"<>|\x00-\x1f]+", part) for part in parts) and not (
        {".", ".."} & set(parts) or PurePosixPath(name).is_absolute()
    )


@contextmanager
def unpacked(path: str | os.PathLike[str]) -> Iterator[tuple[Path, str]]:
    """Give the folder of a bundle and the name of the configuration in it.

    Parameters
    ----------
    path : str or Path
        A folder, an archive, which is unpacked for as long as the block lasts, or a configuration.

    Yields
    ------
    (Path, str)
    """
    path = Path(path)
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise BundleError(f"{path}: is no bundle, there is no {MANIFEST} in it.")
        yield path, CONFIG
    elif not path.exists():
        raise BundleError(f"{path}: there is no such file or folder.")
    elif path.is_file() and zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(path, Path(temporary))
            yield Path(temporary), CONFIG
    elif path.is_file() and path.suffix.lower() == ".json":
        yield path.parent, path.name
    else:
        raise BundleError(
            f"{path}: is no bundle (a folder or .zip that pyimgano export made) and no {CONFIG}."
        )


def _unpack(path: Path, folder: Path) -> None:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise BundleError(f"{path}: is a damaged archive ({error}).") from error
    with archive:
        members = {one.filename: one for one in archive.infolist() if not one.is_dir()}
        if MANIFEST not in members:
            raise BundleError(f"{path}: is no bundle, there is no {MANIFEST} in it.")
        if len(members) > _MOST_FILES:
            raise BundleError(f"{path}: holds {len(members):,} files, too many for a bundle.")
        room = _MOST_TIMES * path.stat().st_size + _BLOCK
        for name, member in members.items():
            if (
                not _is_inside(name)
                or stat.S_ISLNK(member.external_attr >> 16)
                or any(str(parent) in members for parent in PurePosixPath(name).parents)
            ):
                raise BundleError(f"{path}: holds {name!r}, which is no file of a bundle.")
            target = folder.joinpath(*name.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target, durable=False) as file:
                for chunk in _content(archive, member, path):
                    room -= len(chunk)
                    if room < 0:
                        raise BundleError(f"{path}: unpacks to far more than it holds.")
                    file.write(chunk)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    """Read a file of an archive; an error of the one who writes it elsewhere is not caught."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(
            f"{path}: {member.filename} is compressed in a way other than deflate; pack the folder "
            "again."
        )
    try:
        with archive.open(member) as source:
            while chunk := source.read(_BLOCK):
                yield chunk
    except _DAMAGED as error:
        raise BundleError(f"{path}: {member.filename} is damaged ({error}).") from error


# ---- making one -----------------------------------------------------------------------
def _copied(estimator: Any, embed_weights: bool) -> Any:
    """Copy an estimator, with its weights in it if asked for, and without any folder's name."""
    with networks_embedded(estimator) if embed_weights else nullcontext():
        copy = pickle.loads(pickle.dumps(estimator, protocol=5))
    folders = set()
    for step in find_parts(copy, BaseNetworkFeatures):
        for name in ("weights", "weights_file_"):
            value = vars(step).get(name)
            if isinstance(value, (str, os.PathLike)) and os.path.basename(value) != str(value):
                folders.add(os.path.dirname(os.fspath(value)) + os.sep)
                setattr(step, name, os.path.basename(value))
    for part in find_parts(copy, BaseEstimator):  # what training read, such as textures
        names = part.get_params(deep=False)
        for state in (vars(part), vars(part).get("_parameters_at_fit", {})):
            for name in names:
                value = state.get(name)
                if isinstance(value, (str, os.PathLike)) and os.path.isabs(value):
                    folders.add(os.path.dirname(os.fspath(value)) + os.sep)
                    state[name] = Path(value).name
    for part in all_parts(copy):
        for name in ("provenance_", "pixel_provenance_"):  # they tell how features were made
            if name in vars(part):
                told = _without(vars(part)[name], sorted(folders, key=len, reverse=True))
                setattr(part, name, told)
    return copy


def _without(value: Any, folders: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, folders) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without(one, folders) for one in value)
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(folder, "")
    return value


def _write(
    estimator: Any,
    folder: Path,
    images: list[Path],
    about: dict[str, str],
    map_range: tuple[float, float] | None,
    networks: list[BaseNetworkFeatures],
    needs_onnx: bool,
) -> None:
    save(estimator, folder / _PIPELINE, map_range=map_range)
    entry = file_entry(folder / _PIPELINE)
    config = infer_config(estimator, file=_PIPELINE, created=utc_now(), **entry)
    saved = load(folder / _PIPELINE)
    seen = [step.seen_sizes() for step in _fitted_networks(saved)] if images and networks else []
    for sizes in seen:
        sizes.clear()
    config["golden"] = _write_golden(saved, folder, images)
    config["model"]["onnx"] = _write_onnx(networks, set().union(*seen), folder, needs_onnx)
    write_json(folder / CONFIG, config)
    for ending, text in (
        (".md", card_markdown(config, **about)),
        (".html", card_html(config, **about)),
    ):
        with atomic_write(folder / f"{_CARD}{ending}") as file:
            file.write(text.encode("utf-8"))
    names = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())
    files = {name: file_entry(folder / name) for name in names}
    write_json(folder / MANIFEST, {"schema_version": 1, "files": files})


def _write_onnx(
    networks: Sequence[BaseNetworkFeatures],
    sizes: set[tuple[int, int]],
    folder: Path,
    required: bool,
) -> list[dict[str, Any]]:
    """Write each network once as ONNX, and describe the files for the configuration."""
    written: list[dict[str, Any]] = []
    for step in networks:
        identity = step.onnx_identity()
        if any(identity.items() <= one.items() for one in written):
            continue
        found = step.onnx_files(sizes)
        if not found.files and required:
            raise BundleError(
                f"onnx=True: {step.backbone} takes a file for each size of images, and which these "
                "are depends on the images: give golden images of the sizes that will come."
            )
        if not found.files:
            continue
        (folder / "onnx").mkdir(exist_ok=True)
        entries = []
        for size, model in found.files.items():
            plain = re.sub(r"\W+", "_", step.backbone)
            of_size = "" if size is None else f"_{size[0]}x{size[1]}"
            name = f"onnx/{len(written) + 1:02d}_{plain}{of_size}.onnx"
            with atomic_write(folder / name) as file:
                file.write(model)
            sha256 = hashlib.sha256(model).hexdigest()
            entries.append({"file": name, "sha256": sha256, "image_size": size})
        written.append({**identity, "patch_size": found.patch_size, "files": entries})
    return as_plain_json(written)


def _write_golden(estimator: Any, folder: Path, images: list[Path]) -> list[dict[str, Any]]:
    """Copy the golden images, and score the copies with the pipeline as it was saved."""
    if not images:
        return []
    (folder / "golden").mkdir()
    names = []
    for number, image in enumerate(images, 1):
        plain = re.sub(r"[^\w.+-]+", "-", image.name)[-80:]
        names.append(f"golden/{number:02d}_{plain}")
        with atomic_write(folder / names[-1]) as file, open(image, "rb") as source:
            shutil.copyfileobj(source, file, _BLOCK)
    return golden_scores(estimator, folder, names)


def golden_scores(estimator: Any, folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Score golden images.

    Parameters
    ----------
    estimator : fitted estimator
    folder : Path
    names : sequence of str
        Their files in the folder.

    Returns
    -------
    list of dict
        ``file``, ``score`` and ``pred`` (1 = anomalous) of each.
    """
    for name in names:
        if not _is_inside(name):
            raise BundleError(f"the golden image {name!r} is no file of a bundle")
    try:
        scores = anomaly_scores(estimator, [str(folder / name) for name in names])
    except (MissingExtraError, SampleError, ValueError, TypeError, OSError) as error:
        raise BundleError(f"the golden images cannot be scored: {error}") from error
    verdicts = is_anomalous(scores, threshold(estimator))
    return [
        {"file": name, "score": float(score), "pred": int(bad)}
        for name, score, bad in zip(names, scores, verdicts)
    ]
