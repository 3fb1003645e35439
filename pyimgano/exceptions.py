"""Every error and warning a user can meet, each with the way out in its message."""

from __future__ import annotations

__all__ = [
    "DatasetError",
    "ImageFormatError",
    "ImageReadError",
    "MissingExtraError",
    "RandomWeightsWarning",
    "TooFewImagesError",
    "TooFewImagesWarning",
    "UntrustedFileError",
    "VersionDriftWarning",
    "WeightsError",
]


class ImageFormatError(ValueError):
    """An array is not in the image format that was declared or is required.

    The message names the index, what came, and the ``input_format`` that accepts it.
    """


class ImageReadError(OSError):
    """An image file is missing, unreadable, truncated, empty or too large to decode.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple:  # both arguments survive a trip between processes
        return type(self), (self.path, self.reason)


class DatasetError(ValueError):
    """A folder does not have the layout of the dataset it was opened as."""


class TooFewImagesError(ValueError):
    """There are fewer images than the method needs."""


class WeightsError(OSError):
    """Network weights are missing, damaged or do not fit the network."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra."""


class UntrustedFileError(ValueError):
    """A saved pipeline is damaged or holds types that are not on the allow-list."""


class RandomWeightsWarning(UserWarning):
    """A network runs with random weights because ``weights=None`` asked for it."""


class TooFewImagesWarning(UserWarning):
    """The images cannot support the false-positive rate that was asked for."""


class VersionDriftWarning(UserWarning):
    """A model was saved under other versions of the libraries it depends on."""
