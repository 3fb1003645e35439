"""Recipes as they come: metrics of the test images, and processor time of the whole run.

::

    python benchmarks/recipes.py ROOT bottle256 screw256 --recipe industrial-adapt
    python benchmarks/recipes.py ROOT bottle256 screw256 --recipe few-shot --n-train 16

``ROOT`` holds a folder for each category, with ``train/good``, ``test`` and ``ground_truth``. With
``--n-train`` so many good training images are drawn anew for each seed.
"""

from __future__ import annotations

import argparse
import time

from _figures import add_figures_option, record

from pyimgano.benchmark._split import limited
from pyimgano.datasets import load_dataset
from pyimgano.recipes import RecipeData, run_recipe
from pyimgano.utils._threads import limit_threads


def main() -> None:
    """Run the recipe on each category, once for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("category", nargs="+")
    parser.add_argument("--recipe", default="industrial-adapt")
    parser.add_argument("--n-train", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    add_figures_option(parser)
    options = parser.parse_args()
    setting = options.recipe if options.n_train is None else f"{options.recipe} {options.n_train}"
    for category in options.category:
        data, rows = load_dataset("folder", options.root, category=category).to_bunch(), []
        for seed in range(options.seeds):
            some = RecipeData(limited(data, options.n_train, None, seed), "folder")
            started = time.process_time()
            with limit_threads(1):
                result = run_recipe(options.recipe, some, output_dir=None, random_state=seed)
            found = result.details
            rows.append(
                {
                    "image AUROC": found["image"]["auroc"],
                    "pixel AUROC": found["pixel"]["auroc"],
                    "found": found["true_positive_rate"]["value"],
                    "false alarms": found["false_positive_rate"]["value"],
                    "CPU s": time.process_time() - started,
                }
            )
            values = ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items())
            print(f"{category}, {setting}, seed {seed}: {values}", flush=True)
        if options.figures is not None:
            record(options.figures, f"recipes/{category}/{setting}", rows)


if __name__ == "__main__":
    main()
