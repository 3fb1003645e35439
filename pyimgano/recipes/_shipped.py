"""The recipes of this package by name."""

from __future__ import annotations

from collections.abc import Callable

from pyimgano.recipes._adapt import industrial_adapt
from pyimgano.recipes._compare import compare
from pyimgano.recipes._few_shot import few_shot
from pyimgano.recipes._highres import industrial_highres
from pyimgano.recipes._micro_finetune import micro_finetune
from pyimgano.recipes._recipe import Plan

__all__ = ["SHIPPED"]

SHIPPED: dict[str, Callable[..., Plan]] = {
    "compare": compare,
    "few-shot": few_shot,
    "industrial-adapt": industrial_adapt,
    "industrial-highres": industrial_highres,
    "micro-finetune": micro_finetune,
}
