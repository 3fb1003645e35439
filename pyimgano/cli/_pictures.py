"""Pictures of verdicts, and the numbers of maps, as files beside one another."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyimgano.cli import _common, _targets
from pyimgano.cli._saved import files_of_pipeline

__all__ = ["MapWriter", "picture_name"]

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


def picture_name(name: str) -> str:
    from pyimgano.utils._outputs import short_name

    return f"{short_name(name)}.overlay.png"  # the suffix stays: a.png and a.jpg are two images


class MapWriter:
    """Writes ``<name>.overlay.png``, and ``<name>.npy`` if asked, in folders like the images'.

    Parameters
    ----------
    pipeline : estimator
    options : Namespace
        Of ``pyimgano infer``, with ``--save-maps``.
    images : sequence of str or None
        All images, whose files are not written over; None if they are not known yet.
    """

    def __init__(
        self, pipeline: Any, options: argparse.Namespace, images: Sequence[str] | None
    ) -> None:
        from pyimgano._nesting import find_calibrator

        self.folder = Path(options.save_maps)
        self.npy = options.save_npy
        self.limits, self.good_peak = _color_scale(pipeline, options, images)
        calibrator = find_calibrator(pipeline)
        self.good_scores = None if calibrator is None else calibrator.calibration_scores_
        self.used = _targets.real_paths([*(images or ()), *files_of_pipeline(options)])

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
            record.update(self._write(name, record, result.anomaly_map, image))
        except OSError as error:
            if is_out_of_room(error):  # the next map will not fare better
                raise
            record["map_error"] = str(error)
            return False
        return True

    def _write(
        self, name: str, record: dict[str, Any], anomaly_map: Any, image: Any
    ) -> dict[str, str]:
        import io

        import numpy as np

        from pyimgano.reporting import overlay, write_overlay
        from pyimgano.utils._outputs import atomic_write, short_name

        own = os.path.realpath(record["path"])
        path = self.folder / f"{short_name(name)}.npy"
        picture = self.folder / picture_name(name)
        # Before any folder is made: through a link it would be made elsewhere.
        inside = os.path.join(os.path.realpath(self.folder), os.path.dirname(picture_name(name)))
        if os.path.realpath(path.parent) != os.path.normpath(inside):
            raise OSError(f"{path.parent} is reached by a link, which is not followed")
        for target in (path, picture)[not self.npy :]:
            if os.path.realpath(target) in self.used or os.path.realpath(target) == own:
                raise OSError(f"{target} is read by this run, and is not overwritten")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = {"picture": str(picture)}
        if self.npy:
            content = io.BytesIO()
            np.save(content, np.asarray(anomaly_map, np.float32))
            with atomic_write(path) as file:
                file.write(content.getvalue())
            written["map"] = str(path)
        drawn = overlay(
            image,
            anomaly_map,
            self.limits,
            name,
            score=record["score"],
            threshold=record["threshold"],
            good_scores=self.good_scores,
            good_peak=self.good_peak,
        )
        write_overlay(picture, drawn)
        return written
