"""A whole benchmark in one call: fit on good parts, judge the test set, write a report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from joblib import effective_n_jobs
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel, delayed

from pyimgano import _defaults
from pyimgano._nesting import first_step, innermost
from pyimgano.base import MODEL_ERRORS
from pyimgano.benchmark._category import CategoryOptions, run_category
from pyimgano.benchmark._opening import open_run, running
from pyimgano.benchmark._pipelines import (
    GivenPipeline,
    describe,
    given_pipeline,
    make_pipeline_of,
    repr_of,
)
from pyimgano.benchmark._records import ImageRecords
from pyimgano.benchmark._run_dir import SCHEMA_VERSION, CategoryDirectory
from pyimgano.benchmark._sources import Source, dataset_name, sources
from pyimgano.benchmark._split import InputNames, fingerprint, without_folders
from pyimgano.benchmark._summary import summarize
from pyimgano.datasets import InspectionDataset
from pyimgano.exceptions import RunError
from pyimgano.persistence import load
from pyimgano.registry import create_model, model_info, resolve_model
from pyimgano.utils._json import as_plain_json
from pyimgano.utils._outputs import is_out_of_room
from pyimgano.utils._progress import progress_callback

__all__ = [
    "BenchmarkResult",
    "FittedPipelines",
    "ends_all",
    "make_model",
    "pipeline_of_model",
    "run_benchmark",
]


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
    records : mapping of str to list of dict
        The records of each category's test images. Each access reads the file they were written
        to; what was not written is held in memory. ``records.paths`` are the files.
    pipelines : mapping of str to estimator
        The fitted pipelines by category. Each access loads the saved file, as
        :func:`~pyimgano.persistence.load` does; what was not saved is held in memory.
        ``pipelines.paths`` are the files.
    path : Path or None
        The run directory.
    """

    report: dict[str, Any] = field(default_factory=dict)
    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: ImageRecords = field(default_factory=ImageRecords)
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
    pipeline: Any = None,
    quantile: float | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    synthetic_defects: int | None = None,
    output_dir: str | Path | None = _defaults.OUTPUT_DIR,
    resume: bool | str | Path = False,
    save_pipeline: bool = True,
    save_records: bool = True,
    n_overlays: int = _defaults.N_OVERLAYS,
    u16_max: int = _defaults.U16_MAX,
    random_state: int | None = _defaults.RANDOM_STATE,
    batch_size: int = 8,
    n_jobs: int | None = None,
    dataset_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> BenchmarkResult:
    """Fit on the good training images of a dataset, judge its test images, report.

    For each category the pipeline ``ImageFormatNormalizer``, ``ThresholdCalibrator`` of the model
    is fitted and the threshold put where ``quantile`` asks for it, without a look at the test set:
    on the good validation images where the dataset has any, else on out-of-sample scores of the
    training images. The threshold of pixels is put on maps of the same validation images, or on
    those of a fifth of the training images by a copy of the model fitted on the others. A
    ``ThresholdCalibrator`` of your own with another ``cv`` than ``"auto"`` keeps to that.
    Everything found is returned and, in ``output_dir``, written to a new directory. A category
    whose ``report.json`` is there is complete, and so is a run: these are written last.

    A category that fails, say because a training image is damaged, does not keep the others from
    being run: ``report["failed"]`` says why, and whether it is only its pictures that could not be
    drawn. If all fail, the first error is raised. Neither does a category that cannot be opened,
    unless it was asked for by name. A test
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
        What to run; ``"all"`` is every category. None is, for ``"synthetic"``,
        ``"brushed_metal"``, and for files every category in ``root``.
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
    pipeline : str, Path or estimator, default=None
        A pipeline to evaluate in place of a model: a file that :func:`~pyimgano.persistence.save`
        wrote, or an estimator. Whether it is fitted or not, a copy of it with the same
        parameters is fitted on the training images of each category, its threshold included;
        the pipeline itself is never changed or judged. It brings its own input format, calibrator
        and seed, and what it lacks of these is put around it. A calibrator that was given a fitted
        model (``cv="prefit"``) has it fitted anew, as with ``cv="auto"``.
    quantile : float in (0, 1), default=None
        Share of good images that shall pass; None is 0.98, or that of ``pipeline``.
    limit_train : int, default=None
        Number of good training images to take of each category, drawn at random.
    limit_test : int, default=None
        Number of test images to take of each category, drawn at random from each kind in
        proportion; at least one of each kind is taken.
    synthetic_defects : int, default=None
        For a dataset without a defective image: the number of defective test images to make, by
        painting defects on copies of good images with a
        :class:`~pyimgano.synthesis.DefectSynthesizer`. These are the good test images, or, where
        there are none, a fifth of the good training images, at least 5, which are then test
        images and not trained on. A folder needs no test set then, and may hold the images
        themselves. Kinds are named ``"synthetic/scratch"`` and the like, in reports, records and
        pictures. How well painted defects are found says little about real ones.
    output_dir : str, Path or None, default="runs"
        Where to make the run directory; None writes nothing.
    resume : bool, str or Path, default=False
        Go on with a run that was interrupted, without repeating the categories that are finished;
        those that failed are tried again. True takes the newest run in ``output_dir`` that was
        asked for the same, and starts a new one if there is none. A path is that of a run
        directory. The result is that of a run which was not interrupted.
    save_pipeline : bool, default=True
        Save the fitted pipelines in the run directory.
    save_records : bool, default=True
        Write the records of the test images to the run directory.
    n_overlays : int, default=12
        Largest number of pictures per category: of good images and of each kind of defect the
        one judged worst, the one judged best and the one closest to the threshold.
    u16_max : int, default=65535
        Value of full scale in 16-bit files: 4095 for a 12-bit camera.
    random_state : int or None, default=0
        Seeds the synthetic images and defects, a model given by name, and what ``limit_train``
        and ``limit_test`` take.
    batch_size : int, default=8
        Test images held at a time.
    n_jobs : int, default=None
        Number of categories that are run side by side, as in scikit-learn: None is 1 unless in a
        :func:`joblib.parallel_config` context. The report is the same but for its times.
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
    OSError
        If the run directory cannot be written to; the message says which categories are complete.
    RunError
        If the run to go on with was asked for something else, or was begun with other images or
        other versions of packages; if there are real defects beside ``synthetic_defects``.
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
    if pipeline is not None:
        if model != _defaults.MODEL or model_options or u16_max != _defaults.U16_MAX:
            raise ValueError(
                "pipeline brings its own model, parameters and input format: leave out model, "
                "model_options and u16_max, or set them in the pipeline."
            )
        given = given_pipeline(pipeline, quantile)
    else:
        given = pipeline_of_model(model, model_options, quantile, u16_max, random_state, progress)
    if resume and output_dir is None and isinstance(resume, bool):
        raise ValueError("resume=True looks for a run in output_dir, which is None; give a folder.")
    found = sources(
        dataset,
        root,
        category,
        random_state,
        dataset_options or {},
        (limit_train, limit_test),
        synthetic_defects,
        getattr(first_step(given.pipeline), "u16_max", _defaults.U16_MAX),
    )
    side_by_side = effective_n_jobs(n_jobs) > 1 and len(found) > 1
    file = {"file": given.file, "sha256": given.sha256}
    folders = tuple(str(folder) for folder in (root, output_dir) if folder is not None)
    options = CategoryOptions(
        dataset=dataset_name(dataset),
        pipeline={**file, "estimator": without_folders(repr_of(given.pipeline), folders)},
        batch_size=batch_size,
        n_overlays=n_overlays,
        save_pipeline=save_pipeline,
        save_records=save_records,
        progress=progress and not side_by_side,  # their bars would overwrite each other
    )
    config = as_plain_json(
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": options.dataset,
            "model": given.name if model_name is None else model_name,
            "categories": [one.name for one in found],
            "dataset_options": dict(dataset_options or {}),
            "limit_train": limit_train,
            "limit_test": limit_test,
            "synthetic_defects": synthetic_defects,
            "pipeline": describe(given.pipeline),
            "pipeline_file": file,
            "random_state": random_state,
            "batch_size": batch_size,
            "n_overlays": n_overlays,
            "save_pipeline": save_pipeline,
            "save_records": save_records,
        }
    )
    result = BenchmarkResult()
    run = None
    if output_dir is not None or not isinstance(resume, bool):
        run = open_run(output_dir, resume, config, config["model"])
        result.path = run.path
    jobs = [
        _Job(
            one,
            clone(given.pipeline),
            options,
            None if run is None else run.category(one.name),
            folders,
            side_by_side,
        )
        for one in found
    ]
    if run is None:
        _run_jobs(jobs, n_jobs, result, config["model"], synthetic_defects)
        return result
    with running(run, config):
        _run_jobs(jobs, n_jobs, result, config["model"], synthetic_defects)
        run.write_report(result.report)
    return result


def ends_all(error: Exception) -> bool:
    """Tell whether the other categories would meet the same error.

    Parameters
    ----------
    error : Exception
        What ended one category.

    Returns
    -------
    bool
    """
    return isinstance(error, MODEL_ERRORS) or is_out_of_room(error)


# ---- categories, side by side or one after the other ---------------------------------------
@dataclass(frozen=True)
class _Job:
    """A category to run; can be sent to another process."""

    source: Source
    pipeline: Pipeline
    options: CategoryOptions
    folder: CategoryDirectory | None
    folders: tuple[str, ...]  # that no text in a report may name
    elsewhere: bool  # in another process, whose warnings nobody would see


@dataclass
class _Done:
    """A category that was run; without a report if it failed."""

    report: dict[str, Any] | None = None
    records: list[dict[str, Any]] | None = None  # where they were not written
    pipeline: Any = None  # where it was not saved
    error: Exception | None = None
    reason: str = ""
    warnings: list[warnings.WarningMessage] = field(default_factory=list)


def _run_jobs(
    jobs: Sequence[_Job],
    n_jobs: int | None,
    result: BenchmarkResult,
    model: str,
    synthetic_defects: int | None,
) -> None:
    for job in jobs:
        _check_unchanged(job)
    # One after the other they come one by one, so that a single pipeline is held at a time.
    done: Iterable[_Done] = (_run_job(job) for job in jobs)
    if jobs[0].elsewhere:
        done = Parallel(n_jobs=n_jobs)(delayed(_run_job)(job) for job in jobs)
    failed: dict[str, str] = {}
    first_error: Exception | None = None
    for job, one in zip(jobs, done):
        name = job.source.name
        for seen in one.warnings:
            warnings.warn(seen.message, seen.category, stacklevel=4)
        if one.report is None:
            failed[name], first_error = one.reason, first_error or one.error
            continue
        result.categories[name] = one.report
        result.records.add(name, one.records, None if job.folder is None else job.folder.per_image)
        if job.folder is not None and job.options.save_pipeline:
            result.pipelines.add(name, None, job.folder.pipeline)
        elif one.pipeline is not None:
            result.pipelines.add(name, one.pipeline, None)
        if one.report["overlay_error"] is not None:
            failed[name] = f"its pictures: {one.report['overlay_error']}"
    if first_error is not None and not result.categories:
        raise first_error
    result.report = {
        **summarize(jobs[0].options.dataset, model, result.categories, failed),
        "pipeline": dict(jobs[0].options.pipeline),
        "synthetic_defects": synthetic_defects,
    }


def _check_unchanged(job: _Job) -> None:
    """Refuse to go on with a run whose images are no longer those it was begun with."""
    if job.folder is None or not job.folder.is_complete:
        return
    name = job.source.name
    if job.source.error is not None:
        raise job.source.error
    if job.folder.read_report()["split"] != fingerprint(job.source.open()):
        raise RunError(
            f"the images of {name} are not those that the run was begun with: their fingerprint "
            f"differs from the one in {job.folder.report}. Start a new run."
        )


def _run_job(job: _Job) -> _Done:
    if not job.elsewhere:
        return _run_or_read(job)
    with warnings.catch_warnings(record=True) as seen:
        done = _run_or_read(job)
    done.warnings = [one for one in seen if not issubclass(one.category, DeprecationWarning)]
    return done


def _run_or_read(job: _Job) -> _Done:
    folder, options = job.folder, job.options
    if folder is not None and folder.is_complete:
        # Where pipelines and records are not saved, those of a finished category are lost.
        return _Done(folder.read_report(), None if options.save_records else [])
    shorten: Callable[[str], str] = partial(without_folders, folders=job.folders)
    try:
        if folder is not None:
            folder.create()
        with progress_callback(f"{job.source.name}: data", options.progress):
            data = job.source.open()
        names = InputNames(data, job.folders)
        shorten = names.shorten
        out = run_category(job.source.name, data, names, job.pipeline, options, folder)
    except Exception as error:  # whatever it is, the other categories may be all right
        if ends_all(error):
            raise
        return _Done(error=error, reason=shorten(f"{type(error).__name__}: {error}"))
    finally:
        if folder is not None:
            folder.discard_if_empty()
    saved = folder is not None and options.save_pipeline
    return _Done(out.report, out.records, None if saved else out.pipeline)


# ---- what to run ----------------------------------------------------------------------
def pipeline_of_model(
    model: Any,
    model_options: Mapping[str, Any] | None,
    quantile: float | None,
    u16_max: int,
    random_state: Any,
    progress: bool,
) -> GivenPipeline:
    """Make the pipeline of a model by name, or of an estimator; as for ``run_benchmark``."""
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
    return GivenPipeline(make_pipeline_of(model, quantile, u16_max), name, None, None)


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
