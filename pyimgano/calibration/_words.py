"""The provenance of a threshold in words."""

from __future__ import annotations

from typing import Any

from pyimgano.calibration._moving import BY_HAND

__all__ = ["pixel_threshold_in_words", "threshold_in_words"]


def threshold_in_words(provenance: dict[str, Any]) -> list[str]:
    """Say which false-alarm rate a threshold stands for, and which one is possible.

    Parameters
    ----------
    provenance : dict
        ``ThresholdCalibrator.provenance_``.

    Returns
    -------
    list of str
        Lines of text.
    """
    if not provenance["n_images"]:
        by = "by hand" if provenance["method"] == BY_HAND else "by copies of it"
        return [
            f"threshold {provenance['threshold']:.4g}, put {by}: one good image does not tell what "
            "share of new good parts will be called bad",
            "recalibrate with images of more good parts, or train on them",
        ]
    low, high = provenance["false_positive_rate_interval_95"]
    lowest, target = provenance["lowest_supported_rate"], provenance["target_false_positive_rate"]
    asked = "set by hand" if target is None else f"target: {target:.1%}"
    confidence = provenance.get("confidence")  # files of earlier versions have none
    if confidence is not None:
        asked = f"asked for, with {confidence:.4g} confidence: at most {target:.1%}"
    return [
        f"threshold {provenance['threshold']:.4g}: about "
        f"{provenance['expected_false_positive_rate']:.1%} of new good parts will be called bad "
        f"(95 % interval {low:.1%} to {high:.1%}); {asked}",
        f"{provenance['n_images']} good images support no rate below {lowest:.1%}",
    ]


def pixel_threshold_in_words(provenance: dict[str, Any]) -> str:
    """Say in how many good images a pixel threshold leaves a region.

    Parameters
    ----------
    provenance : dict
        ``PixelThresholdCalibrator.pixel_provenance_``.

    Returns
    -------
    str
    """
    low, high = provenance["false_positive_rate_interval_95"]
    return (
        f"pixel threshold {provenance['threshold']:.4g}: about "
        f"{provenance['expected_false_positive_rate']:.1%} of new good parts will show a defect "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
