"""The recipe ``industrial-adapt``."""

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

# From so many working sides on, images are cut: a defect that is a hundredth of the side is less
# than three pixels after shrinking. Tiles are shrunk by half.
_LARGE, _TILE = 4, 2


def industrial_adapt(
    data: RecipeData,
    *,
    model: str = "auto",
    model_options: Mapping[str, Any] | None = None,
    tile: int | str | None = "auto",
    tile_overlap: int = 0,
    preprocessing: Sequence[BasePreprocessor] = (),
    defects: bool = True,
    defect_options: Mapping[str, Any] | None = None,
    quantile: float = _defaults.QUANTILE,
    confidence: float | None = None,
    input_format: str = _defaults.INPUT_FORMAT,
    u16_max: int = _defaults.U16_MAX,
    random_state: int = _defaults.RANDOM_STATE,
    verbose: bool = False,
) -> Plan:
    """Adapt a preset to the images at hand: features, tiles, thresholds and defects.

    The preset is the best one whose weights are on this machine, and nothing is downloaded.
    Images that are large against what the preset looks at are cut into tiles. Verdicts and
    defects have thresholds from images that the model has not seen.

    Parameters
    ----------
    data : RecipeData
    model : str, default="auto"
        A name of the registry; "auto" is a preset by what weights there are.
    model_options : mapping, default=None
        Parameters of the model, such as features__weights.
    tile : int, "auto" or None, default="auto"
        Side of tiles; "auto" cuts images that are larger than 4 times the side to which the
        model brings images, into tiles of twice that side. None cuts nothing.
    tile_overlap : int, default=0
        Pixels that neighboring tiles share.
    preprocessing : sequence of BasePreprocessor, default=()
        Steps that prepare the images.
    defects : bool, default=True
        Find the places of defects, if the model makes maps.
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
    decisions = [f"model: {chosen.name}, {chosen.why}"]
    side, longest = working_side(chosen.model), data.longest_side
    if tile == "auto":
        tile = _TILE * side if longest > _LARGE * side else None
        what = "no tiles" if tile is None else f"tiles of {tile} pixels"
        decisions.append(
            f"{what}: the largest image has {longest} pixels, and the model looks at {side}"
        )
    elif tile is not None:
        decisions.append(f"tiles of {tile} pixels, as asked for")
    if tile is not None:
        decisions += bounded_bank(chosen.model)
    if defects and not makes_maps(chosen.model):
        defects = False
        decisions.append(f"no defects: {chosen.name} makes no maps to find them in")
    lowered, more = quantile, list[str]()
    if confidence is None:
        lowered, more = supported_quantile(quantile, data, chosen.model)
    pipeline = calibrated(
        chosen.model,
        quantile=lowered,
        confidence=confidence,
        defects=defects,
        defect_options=defect_options,
        input_format=input_format,
        u16_max=u16_max,
        preprocessing=preprocessing,
        tile=tile,  # type: ignore[arg-type]
        tile_overlap=tile_overlap,
    )
    return Plan({chosen.name: pipeline}, (*decisions, *more))
