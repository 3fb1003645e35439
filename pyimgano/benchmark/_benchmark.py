"""A whole benchmark in one call: fit on good parts, judge the test set, write a report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import Bunch

from pyimgano import _defaults
from pyimgano._nesting import all_parts, innermost
from pyimgano.base import MODEL_ERRORS
from pyimgano.benchmark._category import CategoryOptions, run_category
from pyimgano.benchmark._run_dir import RunDirectory
from pyimgano.benchmark._summary import summarize
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import (
    InspectionDataset,
    dataset_info,
    list_categories,
    load_dataset,
    make_inspection_dataset,
)
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.persistence import load
from pyimgano.registry import create_model, model_info, resolve_model
from pyimgano.tiling import TilingTransformer
from pyimgano.utils import environment
from pyimgano.utils._outputs import is_out_of_room

__all__ = ["BenchmarkResult", "FittedPipelines", "make_model", "make_pipeline_of", "run_benchmark"]

# What dataset_options may be for a dataset of files.
_FILE_OPTIONS = ("split", "duplicates")


class FittedPipelines(Mapping[str, Any]):
    """The fitted pipelines of a run by category, loaded from their files when asked for.

    Only what was not saved (``output_dir=None`` or ``save_pipeline=False``) stays in memory.
    A pipeline that holds classes of your own is loaded by their names, as in
    ``pyimgano.load(result.pipelines.paths["screw"], trusted=["mylab.steps.Deskew"])``.

    Attributes
    ----------
    paths : dict of str to Path
        The files of the saved pipelines, for :func:`~pyimgano.persistence.load`.
    """

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self._held: dict[str, Any] = {}

    def add(self, category: str, pipeline: Any, path: Path | None) -> None:
        """Record the pipeline of a category.

        Parameters
        ----------
        category : str
        pipeline : estimator
            Fitted; forgotten if there is a file of it.
        path : Path or None
            The file it was saved to.
        """
        if path is None:
            self._held[category] = pipeline
        else:
            self.paths[category] = path.absolute()  # the working directory may change

    def __getitem__(self, category: str) -> Any:
        if category in self._held:
            return self._held[category]
        return load(self.paths[category])

    def __iter__(self) -> Iterator[str]:
        return iter({**self.paths, **self._held})

    def __len__(self) -> int:
        return len(self.paths) + len(self._held)

    def __repr__(self) -> str:
        places = {**self.paths, **dict.fromkeys(self._held, "in memory")}
        return f"<FittedPipelines: {', '.join(f'{k} ({v})' for k, v in places.items())}>"


@dataclass
class BenchmarkResult:
    """Result of :func:`run_benchmark`.

    Parameters
    ----------
    report : dict
        The content of ``report.json``: each category in short, and their mean.
    categories : dict of str to dict
        The content of each category's ``report.json``.
    records : dict of str to list of dict
        The records of each category's test images.
    pipelines : mapping of str to estimator
        The fitted pipelines by category. Each access loads the saved file, as
        :func:`~pyimgano.persistence.load` does; what was not saved is held in memory.
        ``pipelines.paths`` are the files.
    path : Path or None
        The run directory.
    """

    report: dict[str, Any] = field(default_factory=dict)
    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pipelines: FittedPipelines = field(default_factory=FittedPipelines)
    path: Path | None = None


def run_benchmark(
    dataset: str | Bunch | InspectionDataset = "synthetic",
    *,
    root: str | Path | None = None,
    category: str | Sequence[str] | None = None,
    model: Any = _defaults.MODEL,
    model_name: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    quantile: float | None = None,
    output_dir: str | Path | None = _defaults.OUTPUT_DIR,
    save_pipeline: bool = True,
    n_overlays: int = _defaults.N_OVERLAYS,
    u16_max: int = _defaults.U16_MAX,
    random_state: int | None = _defaults.RANDOM_STATE,
    batch_size: int = 8,
    dataset_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> BenchmarkResult:
    """Fit on the good training images of a dataset, judge its test images, report.

    For each category the pipeline ``ImageFormatNormalizer``, ``ThresholdCalibrator`` of the
    model is fitted and the threshold put where ``quantile`` asks for it, without a look at the
    test set: on the good validation images where the dataset has any, else on out-of-sample scores
    of the training images. A ``ThresholdCalibrator`` of your own with another ``cv`` than
    ``"auto"`` keeps to that. Everything found is returned and, in ``output_dir``, written to a new
    directory. A category whose ``report.json`` is there is complete, and so is a run: these are
    written last.

    A category that fails, say because a training image is damaged, does not keep the others from
    being run: ``report["failed"]`` says why, and whether it is only its pictures that could not be
    drawn. If all fail, the first error is raised. A test
    image whose mask cannot be used, being damaged or of another size, is left out of the pixel
    metrics, which a warning says before anything is fitted and the category's report under
    ``pixel``. Fitted pipelines are saved before the test images are judged.

    Parameters
    ----------
    dataset : str, Bunch or InspectionDataset, default="synthetic"
        ``"synthetic"``: :func:`~pyimgano.datasets.make_inspection_dataset`; nothing is needed.
        Any other name of :func:`~pyimgano.datasets.list_datasets`: files in ``root``, such as
        ``"folder"``, ``"manifest"`` or ``"mvtec_ad"``, see
        :func:`~pyimgano.datasets.load_dataset`. A Bunch as
        :func:`~pyimgano.datasets.load_folder` returns it, or an opened dataset, is used as it is.
        Good validation images, where there are any, are what the threshold is put on.
    root : str or Path, default=None
        For a dataset of files: the folder it was unpacked to, or that of a category; for
        ``"manifest"`` the file.
    category : str or sequence of str, default=None
        What to run. None is, for ``"synthetic"``, ``"brushed_metal"``, and for files every
        category in ``root``.
    model : str or estimator, default="industrial-fast"
        A name of :func:`~pyimgano.registry.list_models`. The default needs no weights beyond
        those of the extra ``imagenet``, and none where that is not installed; the report names
        the preset it stood for, see :func:`~pyimgano.registry.resolve_model`. Or an unfitted
        outlier detector for images; a ``ThresholdCalibrator`` brings its own quantile.
    model_name : str, default=None
        What to call the model in reports; None is its name or its class.
    model_options : dict, default=None
        Parameters of a model given by name, as :func:`~pyimgano.registry.create_model` takes
        them.
    quantile : float in (0, 1), default=None
        Share of good images that shall pass; None is 0.98.
    output_dir : str, Path or None, default="runs"
        Where to make the run directory; None writes nothing.
    save_pipeline : bool, default=True
        Save the fitted pipelines in the run directory.
    n_overlays : int, default=12
        Largest number of pictures per category: of good images and of each kind of defect the
        one judged worst, the one judged best and the one closest to the threshold.
    u16_max : int, default=65535
        Value of full scale in 16-bit files: 4095 for a 12-bit camera.
    random_state : int or None, default=0
        Seeds the synthetic images and a model given by name.
    batch_size : int, default=8
        Test images held at a time.
    dataset_options : dict, default=None
        Further arguments of :func:`~pyimgano.datasets.make_inspection_dataset`, or ``split`` and
        ``duplicates`` of :func:`~pyimgano.datasets.load_dataset`.
    progress : bool, default=False
        Show progress bars where something takes more than two seconds.

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    DatasetError
        If there is no such dataset, or the files do not have its layout.
    ImageReadError
        If a training image of every category cannot be read. Such a test image has a record
        with an error.
    TooFewImagesError
        If every category has too few good training images, or no test image that can be judged.

    Examples
    --------
    >>> from pyimgano import run_benchmark
    >>> result = run_benchmark(
    ...     category="brushed_metal",
    ...     output_dir=None,
    ...     dataset_options={"n_train": 12, "n_test_good": 4, "n_test_defect": 4, "size": 64},
    ...     model_options={"features__resize": 64},
    ...     quantile=0.9,
    ... )
    >>> list(result.categories), len(result.records["brushed_metal"])
    (['brushed_metal'], 8)
    """
    if isinstance(model, str):
        name = model if "features" in (model_options or {}) else resolve_model(model)[0]
        model = make_model(model, model_options, random_state, progress)
    elif model_options:
        raise ValueError(
            "model_options belong to a model given by name; this model is an estimator and has "
            "its own parameters: set them there."
        )
    else:
        name = type(innermost(model)[0]).__name__
    pipeline = make_pipeline_of(model, quantile, u16_max)
    options = CategoryOptions(
        batch_size=batch_size,
        n_overlays=n_overlays,
        save_pipeline=save_pipeline,
        progress=progress,
    )
    sources = list(_sources(dataset, root, category, random_state, dataset_options))
    for one, count in Counter(one for one, _ in sources).items():
        if count > 1:
            raise ValueError(f"category names {one!r} {count} times; name each category once.")
    dataset_name = _dataset_name(dataset)
    model_name = name if model_name is None else model_name
    result = BenchmarkResult()
    run = None
    if output_dir is not None:
        run = RunDirectory.create(output_dir, dataset_name, model_name)
        result.path = run.path
    try:
        if run is not None:
            run.write_config(
                {
                    "dataset": dataset_name,
                    "root": None if root is None else str(root),
                    "categories": [name for name, _ in sources],
                    "dataset_options": dict(dataset_options or {}),
                    "pipeline": _describe(pipeline),
                    "random_state": random_state,
                    "batch_size": batch_size,
                }
            )
            run.write_environment(environment())
        failed: dict[str, str] = {}
        first_error: Exception | None = None
        for name, make in sources:
            folder = None if run is None else run.category(name)
            try:
                if folder is not None:
                    folder.create()
                done = run_category(name, make(), clone(pipeline), options, folder)
                result.categories[name] = done.report
                result.records[name] = done.records
                saved = folder.pipeline if folder is not None and save_pipeline else None
                result.pipelines.add(name, done.pipeline, saved)
                try:
                    done.draw()
                except Exception as error:
                    if _ends_all(error):
                        raise
                    failed[name] = f"its pictures: {type(error).__name__}: {error}"
                if folder is not None:
                    folder.write_report(done.report)
                del done  # the next category needs the memory
            except Exception as error:  # whatever it is, the other categories may be all right
                if _ends_all(error):
                    raise
                failed[name] = f"{type(error).__name__}: {error}"
                first_error = first_error or error
            finally:
                if folder is not None:
                    folder.discard_if_empty()
        if first_error is not None and not result.categories:
            raise first_error
        result.report = summarize(dataset_name, model_name, result.categories, failed)
        if run is not None:
            run.write_report(result.report)
    except BaseException as error:
        if run is not None:
            run.discard_if_empty()
            if isinstance(error, OSError) and is_out_of_room(error):
                what = f"{error.strerror}; stopped, {run.what_there_is()}"
                raise OSError(error.errno, what, error.filename) from error
        raise
    return result


def _ends_all(error: Exception) -> bool:
    """Tell whether the other categories would meet the same error."""
    return isinstance(error, MODEL_ERRORS) or is_out_of_room(error)


# ---- what to run ----------------------------------------------------------------------
def make_model(
    name: str, options: Mapping[str, Any] | None, random_state: Any, progress: bool
) -> Any:
    """A model by name; seed and progress bars go to models that have such parameters."""
    parameters = model_info(name)["parameters"]
    given = {}
    if "random_state" in parameters:
        given["random_state"] = random_state
    if parameters.get("verbose", {}).get("accepts") == ["bool"]:
        given["verbose"] = progress
    return create_model(name, **{**given, **(options or {})})


def make_pipeline_of(
    model: Any,
    quantile: float | None,
    u16_max: int,
    *,
    input_format: str = _defaults.INPUT_FORMAT,
    tile: int | None = None,
) -> Pipeline:
    """Put the image format before a model and a calibrated threshold around it.

    Parameters
    ----------
    model : estimator
        An outlier detector for images, or a ``ThresholdCalibrator`` of one.
    quantile : float or None
        Share of good images that shall pass; None is the default of the package.
    u16_max : int
        Value of full scale in 16-bit files.
    input_format : str, default="rgb_u8_hwc"
        Format of images in arrays.
    tile : int, default=None
        Side of the tiles that images are cut into; None does not cut them.

    Returns
    -------
    Pipeline
        Not fitted.

    Raises
    ------
    InvalidParameterError
        If a parameter of any part is not one it takes, which ``fit`` would say much later.
    """
    if not isinstance(model, ThresholdCalibrator):
        model = ThresholdCalibrator(
            model, quantile=_defaults.QUANTILE if quantile is None else quantile
        )
    elif quantile is not None:
        raise ValueError("the model is a ThresholdCalibrator: give the quantile there.")
    steps = [ImageFormatNormalizer(input_format, u16_max=u16_max)]
    if tile is not None:
        steps.append(TilingTransformer(tile))
    pipeline = make_pipeline(*steps, model)
    for part in all_parts(pipeline):
        if isinstance(part, BaseEstimator) and hasattr(part, "_parameter_constraints"):
            part._validate_params()
    return pipeline


def _dataset_name(dataset: str | Bunch | InspectionDataset) -> str:
    if isinstance(dataset, str):
        return dataset_info(dataset).name
    return dataset.name if isinstance(dataset, InspectionDataset) else "custom"


def _sources(
    dataset: str | Bunch | InspectionDataset,
    root: str | Path | None,
    category: str | Sequence[str] | None,
    random_state: int | None,
    options: Mapping[str, Any] | None,
) -> Iterator[tuple[str, Any]]:
    """Name of each category, and the function that makes or opens it."""
    names = [category] if isinstance(category, str) else category
    if not isinstance(dataset, str):
        if names is not None or root is not None or options:
            raise ValueError(
                "a dataset that is given opened takes neither root, category nor dataset_options."
            )
        opened = dataset.to_bunch() if isinstance(dataset, InspectionDataset) else dataset
        yield str(opened.get("category", "custom")), lambda: opened
    elif dataset == "synthetic":
        if root is not None:
            raise ValueError('root belongs to a dataset of files; "synthetic" reads none.')
        arguments = {"random_state": random_state, **(options or {})}
        for name in [_defaults.CATEGORY] if names is None else names:
            yield name, lambda name=name: make_inspection_dataset(name, **arguments)
    else:
        # Opened now, which reads no image: a wrong name is better said before the first fit.
        opened_files = list(_open_files(dataset, root, names, options or {}))
        for name, data in opened_files:
            yield name, lambda data=data: data


def _open_files(
    dataset: str,
    root: str | Path | None,
    names: Sequence[str] | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[str, Bunch]]:
    """Name and images of each category of a dataset of files."""
    info = dataset_info(dataset)
    if info.root != "none" and root is None:
        raise ValueError(f"dataset={dataset!r} needs root, the {info.root} it lies in.")
    for key in options:
        if key not in _FILE_OPTIONS:
            raise ValueError(
                f"dataset_options of dataset={dataset!r} are {' and '.join(_FILE_OPTIONS)}, "
                f"got {key!r}."
            )
    chosen: Sequence[str | None] | None = names
    if chosen is None and info.name == "folder" and (Path(str(root)) / "train").is_dir():
        chosen = [None]
    if chosen is None:
        chosen = list_categories(info.name, root) or [None]
    for name in chosen:
        found = load_dataset(info.name, root, category=name, **options)
        yield found.category if name is None else name, found.to_bunch()


def _describe(value: Any) -> Any:
    """An estimator as class and parameters, in plain JSON types."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        if isinstance(value, Pipeline):
            params = dict(value.steps)
        return {
            "class": f"{type(value).__module__}.{type(value).__qualname__}",
            "params": {name: _describe(param) for name, param in params.items()},
        }
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value) if isinstance(value, Path) else repr(value)
