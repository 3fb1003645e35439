"""Every error and warning a user can meet, each with the way out in its message."""

from __future__ import annotations

__all__ = [
    "AlignmentWarning",
    "BundleError",
    "DatasetError",
    "DeviceError",
    "DuplicateImagesWarning",
    "IgnoredLabelsWarning",
    "ImageFormatError",
    "ImageReadError",
    "MissingExtraError",
    "ModelChoiceWarning",
    "ParameterError",
    "PluginError",
    "PluginWarning",
    "PoseWarning",
    "PreprocessingError",
    "RandomWeightsWarning",
    "RunError",
    "SampleError",
    "SynthesisError",
    "TooFewImagesError",
    "TooFewImagesWarning",
    "TrainingError",
    "TrainingImagesError",
    "UncheckedFileWarning",
    "UndefinedScoreError",
    "UnknownModelError",
    "UnknownParameterError",
    "UnknownRecipeError",
    "UntrustedFileError",
    "VersionDriftWarning",
    "WeightsError",
]


class SampleError(Exception):
    """A sample cannot be scored because of what it is, whatever the model and the program.

    Where errors are recorded, as in :func:`~pyimgano.inference.infer`, these are, and the other
    samples are scored. A feature step or detector raises one for an image it cannot take.
    """


class ImageFormatError(SampleError, ValueError):
    """An image is not in the format or of the size that was declared or is required.

    The message names the index, what came, and the ``input_format`` that accepts it.
    """


class PreprocessingError(SampleError, ValueError):
    """A preprocessing step cannot do its work on an image.

    The message names the image, what is wrong with it and what would be right.
    """


class SynthesisError(SampleError, ValueError):
    """No defect of the kinds asked for can be painted on an image so that it shows."""


class UndefinedScoreError(SampleError, ValueError):
    """The anomaly score of a sample is NaN, from which no verdict follows."""


class ImageReadError(SampleError, OSError):
    """An image file is missing, unreadable, truncated, empty or too large to decode.

    Parameters
    ----------
    path : str or Path
        The file.
    reason : str
        What is wrong with it.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple:  # both arguments survive a trip between processes
        return type(self), (self.path, self.reason)


class BundleError(ValueError):
    """A delivered bundle cannot be made or read, or is not whole."""


class DatasetError(ValueError):
    """A dataset is not there, or its files are not as they should be."""


class RunError(ValueError):
    """A benchmark cannot be run, gone on with or compared as it was asked for."""


class DeviceError(ValueError):
    """The machine has no such device as a network is to run on, or its engine cannot run it."""


class TooFewImagesError(ValueError):
    """There are fewer images than the method needs."""


class TrainingError(RuntimeError):
    """Training of a network has diverged, or cannot go on from its checkpoint."""


class TrainingImagesError(ValueError):
    """Images that a model was trained on were given where it needs to see new ones."""


class WeightsError(OSError):
    """Network weights are missing, damaged or do not fit the network."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra."""


class UnknownModelError(ValueError):
    """The registry has no model of that name, tag or family; the message names the nearest."""


class UnknownParameterError(TypeError):
    """A model or recipe has no parameter of that name; the message names the nearest."""


class UnknownRecipeError(ValueError):
    """There is no recipe of that name; the message names the nearest."""


class ParameterError(ValueError, TypeError):
    """A parameter has a value that does not go with the model, another one or the images."""


class PluginError(ImportError):
    """A plug-in that adds a model or a recipe cannot be loaded; the message says which and why."""


class UntrustedFileError(ValueError):
    """A saved pipeline is damaged, or holds an unknown type or an object in an invalid state."""


class AlignmentWarning(UserWarning):
    """An image could not be brought to the reference and is compared as it lies."""


class DuplicateImagesWarning(UserWarning):
    """The same picture is among the training and the test images of a dataset."""


class IgnoredLabelsWarning(UserWarning):
    """Labels other than +1 and -1 are ignored, and known anomalies among them are learned from.

    ``warnings.simplefilter("error", IgnoredLabelsWarning)`` makes it an error.
    """


class ModelChoiceWarning(UserWarning):
    """A model's name stands for its weight-free preset, because an extra is not installed."""


class PoseWarning(UserWarning):
    """A template was learned from parts that lie in no fixed pose, and tells little."""


class RandomWeightsWarning(UserWarning):
    """A network runs with random weights because ``weights=None`` asked for it."""


class TooFewImagesWarning(UserWarning):
    """The images cannot support the false-positive rate that was asked for."""


class PluginWarning(UserWarning):
    """A plug-in cannot be loaded; its model is left out of the list."""


class UncheckedFileWarning(UserWarning):
    """A saved model was loaded without its side file, so damage to its numbers is not noticed."""


class VersionDriftWarning(UserWarning):
    """A model was saved under other versions of the libraries it depends on."""
