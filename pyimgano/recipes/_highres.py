"""The recipe ``industrial-highres``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyimgano import _defaults
from pyimgano._nesting import makes_maps
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.recipes._building import (
    bounded_bank,
    calibrated,
    choose_model,
    supported_quantile,
    working_side,
)
from pyimgano.recipes._recipe import Plan, RecipeData


def industrial_highres(
    data: RecipeData,
    *,
    model: str = "auto",
    model_options: Mapping[str, Any] | None = None,
    tile: int | None = None,
    tile_overlap: int | None = None,
    preprocessing: Sequence[BasePreprocessor] = (),
    defect_options: Mapping[str, Any] | None = None,
    quantile: float = _defaults.QUANTILE,
    confidence: float | None = None,
    input_format: str = _defaults.INPUT_FORMAT,
    u16_max: int = _defaults.U16_MAX,
    random_state: int = _defaults.RANDOM_STATE,
    verbose: bool = False,
) -> Plan:
    """Look at every pixel of large images: tiles that overlap and are not shrunk.

    For defects of a few pixels in images of thousands. The time for an image grows with the
    number of its tiles; industrial-adapt takes larger ones, and takes them where images are large.

    Parameters
    ----------
    data : RecipeData
    model : str, default="auto"
        A name of the registry; "auto" is a preset by what weights there are.
    model_options : mapping, default=None
        Parameters of the model, such as features__weights.
    tile : int, default=None
        Side of tiles; None is the side to which the model brings images, so that nothing is
        shrunk.
    tile_overlap : int, default=None
        Pixels that neighboring tiles share, so that a defect on a seam is seen whole; None is a
        quarter of the tile.
    preprocessing : sequence of BasePreprocessor, default=()
        Steps that prepare the images.
    defect_options : mapping, default=None
        Parameters of DefectExtractor.
    quantile : float in (0, 1), default=0.98
        Share of good parts that shall pass, and that shall show no defect; lowered where there
        are too few good images for it.
    confidence : float in (0, 1), default=None
        Keep that share with this confidence; None keeps it on average.
    input_format : str, default="rgb_u8_hwc"
        Format of images in arrays.
    u16_max : int, default=65535
        Full scale of 16-bit files.
    random_state : int, default=0
        Seeds the model.
    verbose : bool, default=False
        Show progress bars of the model.

    Returns
    -------
    Plan
    """
    chosen = choose_model(model, model_options, random_state, verbose)
    if not makes_maps(chosen.model):
        raise ValueError(f"model={chosen.name!r} makes no maps, which tiles are put together by.")
    side = working_side(chosen.model) if tile is None else tile
    overlap = side // 4 if tile_overlap is None else tile_overlap
    if not 0 <= overlap < side:
        raise ValueError(f"tile_overlap={overlap} must be less than the tile, {side}.")
    if data.longest_side <= side:
        raise ValueError(
            f"no image is larger than a tile: the largest has {data.longest_side} pixels, and "
            f"tiles {side}. Take the recipe industrial-adapt, or give a smaller tile."
        )
    decisions = [
        f"model: {chosen.name}, {chosen.why}",
        f"tiles of {side} pixels that share {overlap}: the largest image has "
        f"{data.longest_side} pixels",
        *bounded_bank(chosen.model),
    ]
    lowered, more = quantile, list[str]()
    if confidence is None:
        lowered, more = supported_quantile(quantile, data, chosen.model)
    pipeline = calibrated(
        chosen.model,
        quantile=lowered,
        confidence=confidence,
        defect_options=defect_options,
        input_format=input_format,
        u16_max=u16_max,
        preprocessing=preprocessing,
        tile=side,
        tile_overlap=overlap,
    )
    return Plan({chosen.name: pipeline}, (*decisions, *more))
