"""Pictures of verdicts, and the numbers of maps, as files beside one another."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyimgano.cli import _common, _targets
from pyimgano.cli._saved import files_of_pipeline

__all__ = ["WRITERS", "MapWriter", "MaskWriter", "OverlayWriter"]

# Images whose maps give the scale of colors where none was saved.
_N_FOR_SCALE = 8


def _color_scale(
    pipeline: Any, options: argparse.Namespace, images: Sequence[str] | None
) -> tuple[tuple[float, float], str | None]:
    """Map values of the cold and the hot end, and where the peak of good images is.

    As saved, or else from the images at hand. None if none of these is good.
    """
    from pyimgano.inference import infer
    from pyimgano.reporting import range_of_maps

    saved = options.map_range
    if saved is not None:
        return saved, "middle"
    if images is None:
        raise _common.UsageError(
            f"--save-maps: {options.pipeline} was saved without a scale of colors, which cannot be "
            "taken from images that are still to come; save it with one: pyimgano train does, or "
            "pyimgano.save(..., map_range=...)"
        )
    some = images[:: -(-len(images) // _N_FOR_SCALE)]
    results = infer(pipeline, some, return_maps=True, on_error="record")
    judged = [result for result in results if result.anomaly_map is not None]
    if not judged:
        return (0.0, 1.0), None  # there will be no picture
    good = [result.anomaly_map for result in judged if result.label == 1]
    whose = "that are judged normal" if good else "though all are judged anomalous"
    _common.say(
        f"{options.prog}: warning: {options.pipeline} was saved without a scale of colors, so it "
        "is taken from "
        f"{len(good or judged)} of these images, {whose}. pyimgano train and "
        "pyimgano.save(..., map_range=...) keep one scale for all images"
    )
    if good:
        return range_of_maps(good), "middle"
    return range_of_maps([result.anomaly_map for result in judged], peak_at=1.0), None


class _Writer:
    """Writes files for each image into folders like those of the images.

    Parameters
    ----------
    option : str
        The option that names the folder.
    options : Namespace
        Of ``pyimgano infer``.
    images : sequence of str or None
        All images, whose files are not written over; None if they are not known yet.
    """

    option: str
    ending: str

    def __init__(self, options: argparse.Namespace, images: Sequence[str] | None) -> None:
        self.folder = Path(getattr(options, self.option))
        self.used = _targets.real_paths([*(images or ()), *files_of_pipeline(options)])

    @classmethod
    def file_of(cls, name: str) -> str:
        """Give the relative name of the file that is written for an image."""
        from pyimgano.utils._outputs import short_name

        return f"{short_name(name)}{cls.ending}"  # the suffix stays: a.png and a.jpg are two images

    def add(self, name: str, record: dict[str, Any], result: Any, image: Any) -> bool:
        """Write what belongs to an image with a map.

        Parameters
        ----------
        name : str
            Relative path, after which the files are called.
        record : dict
            Record of the image, in which is noted where they are, or why there are none.
        result : InferenceResult
        image : ndarray of shape (height, width, 3), uint8

        Returns
        -------
        bool
            Whether they were written.
        """
        from pyimgano.utils._outputs import is_out_of_room

        try:
            record.update(self._write(name, record, result, image))
        except OSError as error:
            if is_out_of_room(error):  # the next one will not fare better
                raise
            record["map_error"] = str(error)
            return False
        return True

    def _write(self, name: str, record: dict[str, Any], result: Any, image: Any) -> dict[str, str]:
        raise NotImplementedError

    def _places(self, names: Sequence[str], image: str) -> list[Path]:
        """Make the folder for files, unless it or one of them must not be written."""
        paths = [self.folder / name for name in names]
        # Before any folder is made: through a link it would be made elsewhere.
        inside = os.path.join(os.path.realpath(self.folder), os.path.dirname(names[0]))
        if os.path.realpath(paths[0].parent) != os.path.normpath(inside):
            raise OSError(f"{paths[0].parent} is reached by a link, which is not followed")
        for path in paths:
            real = os.path.realpath(path)
            if real in self.used or real == os.path.realpath(image):
                raise OSError(f"{path} is read by this run, and is not overwritten")
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        return paths


class MapWriter(_Writer):
    """Writes ``<name>.overlay.png``, and ``<name>.npy`` if asked: ``--save-maps``."""

    option, ending = "save_maps", ".overlay.png"

    def __init__(
        self, options: argparse.Namespace, images: Sequence[str] | None, pipeline: Any
    ) -> None:
        from pyimgano._nesting import find_calibrator

        super().__init__(options, images)
        self.npy = options.save_npy
        self.limits, self.good_peak = _color_scale(pipeline, options, images)
        calibrator = find_calibrator(pipeline)
        self.good_scores = None if calibrator is None else calibrator.calibration_scores_

    def _write(self, name: str, record: dict[str, Any], result: Any, image: Any) -> dict[str, str]:
        import io

        import numpy as np

        from pyimgano.reporting import overlay, write_overlay
        from pyimgano.utils._outputs import atomic_write, short_name

        names = [self.file_of(name), f"{short_name(name)}.npy"]
        picture, *numbers = self._places(names if self.npy else names[:1], record["path"])
        written = {"picture": str(picture)}
        for path in numbers:
            content = io.BytesIO()
            np.save(content, np.asarray(result.anomaly_map, np.float32))
            with atomic_write(path) as file:
                file.write(content.getvalue())
            written["map"] = str(path)
        drawn = overlay(
            image,
            result.anomaly_map,
            self.limits,
            name,
            score=record["score"],
            threshold=record["threshold"],
            good_scores=self.good_scores,
            good_peak=self.good_peak,
        )
        write_overlay(picture, drawn)
        return written


class MaskWriter(_Writer):
    """Writes the defects of an image as ``<name>.mask.png``: ``--save-masks``."""

    option, ending = "save_masks", ".mask.png"

    def _write(self, name: str, record: dict[str, Any], result: Any, image: Any) -> dict[str, str]:
        from pyimgano.defects import write_mask

        (path,) = self._places([self.file_of(name)], record["path"])
        write_mask(path, result.defects, result.anomaly_map.shape)
        return {"mask": str(path)}


class OverlayWriter(_Writer):
    """Writes an image with the outlines of its defects as ``<name>.defects.png``."""

    option, ending = "save_overlays", ".defects.png"

    def _write(self, name: str, record: dict[str, Any], result: Any, image: Any) -> dict[str, str]:
        from pyimgano.reporting import outline_defects, write_overlay

        (path,) = self._places([self.file_of(name)], record["path"])
        write_overlay(path, outline_defects(image, result.defects, result.anomaly_map.shape))
        return {"overlay": str(path)}


#: What is written for each image, by the options that ask for it.
WRITERS: tuple[type[_Writer], ...] = (MapWriter, MaskWriter, OverlayWriter)
