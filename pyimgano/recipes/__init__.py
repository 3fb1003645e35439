"""Recipes: from a folder of images to a delivered pipeline, in one call."""

from __future__ import annotations

from pyimgano.recipes._recipe import (
    Plan,
    Recipe,
    RecipeConfig,
    RecipeData,
    list_recipes,
    recipe_info,
    register_recipe,
)
from pyimgano.recipes._running import RecipeResult, carry_out, run_recipe

__all__ = [
    "Plan",
    "Recipe",
    "RecipeConfig",
    "RecipeData",
    "RecipeResult",
    "carry_out",
    "list_recipes",
    "recipe_info",
    "register_recipe",
    "run_recipe",
]
