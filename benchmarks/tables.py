"""Fill the tables of README and documentation from ``benchmarks/figures.json``.

    python benchmarks/tables.py          # write them
    python benchmarks/tables.py --check  # say which pages are not up to date, and fail

A table stands between two comments, in Markdown ``<!-- figures: NAME -->`` and
``<!-- end of figures -->``, in reStructuredText ``.. figures: NAME`` and ``.. end of figures``.
What is between them is written here; all else on a page is left alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from _figures import read

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "doc/benchmarks.rst",
    "doc/user_guide/command_line.rst",
    "doc/user_guide/defects.rst",
    "doc/user_guide/detectors.rst",
    "doc/user_guide/monitoring.rst",
    "doc/user_guide/recipes.rst",
    "doc/user_guide/synthesis.rst",
    "doc/user_guide/thresholds.rst",
    "doc/user_guide/trained.rst",
)
CATEGORIES = ("bottle256", "screw256")
TARGETS = ("at 10%", "at 5%", "at 1%")

MARKED = {
    ".md": re.compile(r"(<!-- figures: (.+?) -->\n)(.*?)(<!-- end of figures -->\n)", re.DOTALL),
    ".rst": re.compile(r"(\.\. figures: (.+?)\n\n)(.*?)(\.\. end of figures\n)", re.DOTALL),
}

Row = Sequence[str]


class Table(NamedTuple):
    header: Row
    widths: Sequence[int]
    rows: list[Row]


def auroc(setting: str) -> Iterator[str]:
    """Image and pixel AUROC on each category, with the range over seeds where it shows."""
    records = read()
    for category in CATEGORIES:
        record = records.get(f"accuracy/{category}/{setting}")
        if record is None:
            yield "not measured"
            continue
        image, pixel = (record["values"][name] for name in ("image AUROC", "pixel AUROC in crop"))
        spread = f" ({image['min']:.3f} to {image['max']:.3f})"
        shown = spread if image["max"] - image["min"] >= 0.001 else ""
        yield f"{image['mean']:.3f}{shown} / {pixel['mean']:.3f}"


def rates(setting: str) -> Iterator[str]:
    """Realized false-positive rates, mean and standard deviation over the splits."""
    values = read()[f"false positive rate/screw256/{setting}"]["values"]
    for name in TARGETS:
        mean, std = values[name]["mean"], values[name]["std"]
        yield f"{100 * mean:.1f} ± {100 * std:.1f} %" if std else f"{100 * mean:.1f} %"


def splits(setting: str) -> str:
    return f"{read()[f'false positive rate/screw256/{setting}']['runs']}"


def readme_accuracy() -> Table:
    return Table(
        ("features", "weights", "bottle image / pixel AUROC", "screw image / pixel AUROC"),
        (),
        [
            ('`"efficientnet_lite0"`', "ImageNet", *auroc("patchcore 10%/efficientnet_lite0")),
            ('`"resnet18"`', "ImageNet", *auroc("patchcore 10%/resnet18")),
            ('`"filterbank"`', "none", *auroc("patchcore 10%/filterbank")),
        ],
    )


def patchcore_false_positives() -> Table:
    records = read()
    return Table(
        ("coreset", "splits", "asked for 10 %", "5 %", "1 %"),
        (20, 14, 22, 22, 22),
        [
            (coreset, splits(setting), *rates(setting))
            for coreset, setting in (
                ("1 %", "patchcore 1%/resnet18"),
                ("10 %", "patchcore 10%/resnet18"),
            )
            if f"false positive rate/screw256/{setting}" in records
        ],
    )


def few_images() -> Table:
    """Stated and realized rates of thresholds from few images with a learned metric."""
    records = read()
    rows = []
    for size in (96, 256):
        for name in ("PatchCore", "PaDiM", "SPADE", "SoftPatch"):
            for n in (8, 15, 30, 60):
                key = f"small sample rates/bottle256/{name.lower()} at {size} pixels/{n} images"
                share = {k: f"{v['mean']:.1%}" for k, v in records[key]["values"].items()}
                cells = [
                    f"{share[f'{rate}: stated']} / {share[f'{rate}: realized']}"
                    for rate in ("lowest", "20%")
                ]
                rows.append((name if n == 8 else "", f"{size}" if n == 8 else "", f"{n}", *cells))
    header = ("detector", "pixels", "images", "lowest: stated / realized", "20 %")
    return Table(header, (22, 12, 12, 27, 27), rows)


DETECTORS = {
    "PatchCore, 10 % coreset": "patchcore 10%/resnet18",
    "PatchCore, 1 % coreset": "patchcore 1%/resnet18",
    "PatchCore, 10 %, EfficientNet-Lite0": "patchcore 10%/efficientnet_lite0",
    "PatchCore, 1 %, EfficientNet-Lite0": "patchcore 1%/efficientnet_lite0",
    "PatchCore, 1 %, EfficientNet-Lite0, whole image (``industrial-fast-imagenet``)": (
        "patchcore 1%/efficientnet_lite0, whole image"
    ),
    'PatchCore, 10 %, ``"filterbank"`` (no weights)': "patchcore 10%/filterbank",
    'PatchCore, 1 %, ``"filterbank"``': "patchcore 1%/filterbank",
    "PaDiM": "padim/resnet18",
    "SoftPatch, 10 % coreset": "softpatch 10%/resnet18",
    "SPADE": "spade/resnet18",
    "AnomalyDINO, ViT-Tiny at 224 pixels": "anomalydino 100%/vit_tiny_patch16_224",
}


def accuracy() -> Table:
    records = read()
    rows = []
    for name, setting in DETECTORS.items():
        runs = {
            records[key]["runs"]
            for key in (f"accuracy/{category}/{setting}" for category in CATEGORIES)
            if key in records
        }
        if runs:
            rows.append((name, " / ".join(map(str, sorted(runs))), *auroc(setting)))
    header = ("detector", "seeds", "bottle image / pixel AUROC", "screw image / pixel AUROC")
    return Table(header, (34, 8, 29, 29), rows)


def noise() -> Table:
    """AUROC with defective images mixed into training, less that of clean training."""
    records = read()
    rows = []
    for name in ("PatchCore", "SoftPatch"):
        for where, added in (("in the test set as well", ""), ("taken out of it", ", no overlap")):
            cells = []
            for category in CATEGORIES:
                key = f"accuracy/{category}/{name.lower()} 10%/resnet18"
                clean, noisy = records[key], records[f"{key}/noise 10%{added}"]
                change = [
                    noisy["values"][value]["mean"] - clean["values"][value]["mean"]
                    for value in ("image AUROC", "pixel AUROC in crop")
                ]
                cells.append(" / ".join(f"{one:+.4f}" for one in change))
            rows.append((f"{name}, 10 % coreset", where, *cells))
    header = (
        "detector",
        "noise is",
        "bottle image / pixel AUROC",
        "screw image / pixel AUROC",
    )
    return Table(header, (28, 24, 24, 24), rows)


def false_positives() -> Table:
    records = read()
    rows = [
        (name, splits(setting), *rates(setting))
        for name, setting in DETECTORS.items()
        if f"false positive rate/screw256/{setting}" in records
    ]
    return Table(("detector", "splits", "asked for 10 %", "5 %", "1 %"), (36, 10, 18, 18, 18), rows)


def defect_regions() -> Table:
    """Good images with any region, defects overlapped, and precision and recall of pixels."""
    records = read()
    rows = []
    for features, setting in (
        ("ResNet-18, coreset of 10 %, 224-pixel crop", "patchcore 10%/resnet18"),
        ("ResNet-18, 10 %, whole image", "patchcore 10%/resnet18, whole image"),
        ("ResNet-18, 1 %, whole image", "patchcore 1%/resnet18, whole image"),
        ("filter bank (no weights), 10 %", "patchcore 10%/filterbank"),
        ("filter bank, 1 %", "patchcore 1%/filterbank"),
        ("filter bank, 5 %, resize=320", "patchcore 5%/filterbank, 320 pixels"),
    ):
        shown = features  # once
        for by in ("training images", "good test images"):
            for name in ("plain threshold", "preset"):
                cells = []
                for category in CATEGORIES:
                    key = f"defect regions/{category}/{setting}/{name}, by {by}"
                    if key not in records:
                        cells.append("")
                        continue
                    good, overlapped, precision, recall = (
                        100 * value["mean"] for value in records[key]["values"].values()
                    )
                    cells.append(
                        f"{good:.0f} / {overlapped:.1f} % ({precision:.0f} / {recall:.0f} %)"
                    )
                if any(cells):
                    rows.append((shown, by, name, *cells))
                    shown = ""
    header = ("features", "threshold by", "extractor", "bottle", "screw")
    return Table(header, (20, 16, 16, 24, 24), rows)


def detectors() -> Table:
    fast = "features: 15 ms per image"
    return Table(
        ("detector", "bottle", "screw", "CPU time"),
        (40, 20, 20, 20),
        [
            ('`PatchCoreDetector("resnet18")`, `crop=224`', *auroc("patchcore 10%/resnet18"), ""),
            (
                '`create_model("industrial-fast-imagenet")`',
                *auroc("patchcore 1%/efficientnet_lite0, whole image"),
                "features: 7 ms per image",
            ),
            ('`PatchCoreDetector("filterbank")`', *auroc("patchcore 10%/filterbank"), fast),
            (
                '`PatchCoreDetector("filterbank", coreset_ratio=0.01)`',
                *auroc("patchcore 1%/filterbank"),
                fast,
            ),
            # These are the classes' own pages'.
            (
                "`PixelGaussianDetector()`",
                "0.979 / 0.935",
                "0.35 / \u2013",
                "fit 1.3 s, 1.5 ms per image",
            ),
            (
                "`PixelMADDetector()`",
                "0.959 / 0.924",
                "0.28 / \u2013",
                "fit 3.5 s, 1.3 ms per image",
            ),
            (
                "`SSIMTemplateDetector()`",
                "0.987 / 0.945",
                "0.44 / \u2013",
                "fit 2 s, 6 ms per image",
            ),
            (
                "`NCCTemplateDetector()`",
                "0.982 / 0.935",
                "0.45 / \u2013",
                "fit 2 s, 6 ms per image",
            ),
        ],
    )


def drift() -> Table:
    """False alarms of drift monitors, and how many changes they notice."""
    records = read()
    rows = []
    for name, setting in (
        ("ResNet-18", "patchcore 1%/resnet18, whole image"),
        ("filter bank", "patchcore 1%/filterbank"),
    ):
        record = records[f"drift/screw256/{setting}"]
        cells = [
            f"{100 * record['values'][key]['mean']:.1f} %"
            for key in ("false alarm", "alarm within 50")
        ]
        rows.append((name, f"{record['runs']}", *cells))
    header = ("features", "replays", "false alarms in 500 good parts", "alarm within 50 parts")
    return Table(header, (25, 15, 30, 30), rows)


# Settings and severities of the tables about corrupted images.
CORRUPTED = tuple(
    (f"{category.removesuffix('256')}, {features}", f"{category}/patchcore 1%/{features}{whole}")
    for category in CATEGORIES
    for features, whole in (("filterbank", ""), ("resnet18", ", whole image"))
)
SEVERITIES = (1, 3)


def corrupted(figure: str, form: Callable[[float], str]) -> Table:
    """A figure of each corruption at two severities, for each category and kind of features."""
    records = read()

    def cell(kind: str, setting: str) -> str:
        keys = [f"robustness/{setting}/{severity}" for severity in SEVERITIES]
        found = [
            form(records[key]["values"][f"{kind}: {figure}"]["mean"]) if key in records else "-"
            for key in keys
        ]
        return found[0] if kind == "clean" else " / ".join(found)

    first = next(iter(key for key in records if key.startswith("robustness/")))
    kinds = [name.split(":")[0] for name in records[first]["values"] if name.endswith(figure)]
    rows = [
        (kind.replace("_", " "), *(cell(kind, setting) for _, setting in CORRUPTED))
        for kind in kinds
    ]
    return Table(("corruption", *(name for name, _ in CORRUPTED)), (28, 18, 18, 18, 18), rows)


def synthetic_defects() -> Table:
    """AUROC on painted and on real defects, for each category."""
    records = read()
    prefix = f"synthetic defects/{CATEGORIES[0]}/"
    rows = []
    for setting in (key.removeprefix(prefix) for key in records if key.startswith(prefix)):
        found = [records[f"synthetic defects/{one}/{setting}"]["values"] for one in CATEGORIES]
        cells = [
            f"{values[which]['mean']:.3f}" for values in found for which in ("painted", "real")
        ]
        rows.append((setting, *cells))
    names = (one.removesuffix("256") for one in CATEGORIES)
    header = ["model", *(f"{name}, {kind}" for name in names for kind in ("painted", "real"))]
    return Table(header, (36, 16, 16, 16, 16), rows)


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def in_parts() -> Table:
    """Models that have learned from parts, beside those that have learned from all at once."""
    records = read()
    rows = []
    for category in CATEGORIES:
        for name, setting in (
            ("PatchCore, ResNet-18", "patchcore 10%/resnet18"),
            ("PatchCore, filter bank", "patchcore 10%/filterbank, 128 pixels"),
            ("PaDiM, ResNet-18", "padim/resnet18"),
        ):
            record = records[f"incremental/{category}/{setting}"]["values"]
            mean = {name: value["mean"] for name, value in record.items()}
            rows.append(
                (
                    f"{category.removesuffix('256')}, {name}",
                    f"{mean['AUROC at once']:.3f} / {mean['AUROC in parts']:.3f}",
                    f"{mean['correlation']:.3f}",
                    f"{mean['correlation of training scores']:.3f}",
                    f"{mean['threshold, off by']:.1%}",
                    f"{mean['false positives at once']:.1%} / "
                    f"{mean['false positives in parts']:.1%}",
                )
            )
    header = (
        "category, detector",
        "AUROC: at once / in parts",
        "correlation, test images",
        "training images",
        "thresholds differ by",
        "false positives: at once / in parts",
    )
    return Table(header, (30, 16, 12, 12, 12, 18), rows)


TRAINED = {
    "stfpm": "STFPM",
    "reverse_distillation": "Reverse distillation",
    "supersimplenet": "SuperSimpleNet",
    "supersimplenet, layer1 layer2 layer3": "SuperSimpleNet, layers 1 to 3",
    "draem": "DRAEM",
    "dinomaly": "Dinomaly",
}


def trained() -> Table:
    """Detectors that train networks, at settings for two CPU cores."""
    records = read()
    rows = []
    for category in CATEGORIES:
        for name, title in TRAINED.items():
            record = records.get(f"trained/{category}/{name}")
            spare = records.get(f"trained/{category}/{name}, 80 spare")
            if record is None:
                if spare is None:
                    continue
                # All that there is: of the models that were trained on fewer images.
                record, title = spare, f"{title}, without those 80"
            values = record["values"]
            image, seconds = values["image AUROC"], values["fit CPU s"]["mean"]
            spread = f" ({image['min']:.3f} to {image['max']:.3f})" if record["runs"] > 1 else ""
            more = "" if spare is None else alarms(spare["values"]["false alarms of spare"])
            rows.append(
                (
                    f"{category.removesuffix('256')}, {title}",
                    str(record["runs"]),
                    f"{image['mean']:.3f}{spread}",
                    f"{values['pixel AUROC']['mean']:.3f}",
                    "" if record is spare else f"{100 * values['false alarms']['mean']:.1f} %",
                    more,
                    f"{seconds:.0f}",
                )
            )
    header = (
        "category, detector",
        "seeds",
        "image AUROC",
        "pixel AUROC",
        "false alarms",
        "of 80 spare images",
        "CPU s",
    )
    return Table(header, (28, 8, 24, 10, 10, 22, 8), rows)


def alarms(share: dict[str, float]) -> str:
    return f"{percent(share['mean'])} % ({percent(share['min'])} to {percent(share['max'])})"


def known_defects() -> Table:
    """What SuperSimpleNet gains from ten defects that it is told of."""
    records = read()
    rows = []
    for category in CATEGORIES:
        with_them = records.get(f"trained/{category}/supersimplenet, known defects")
        if with_them is None:
            continue
        without = records[f"trained/{category}/supersimplenet"]
        cells = [
            f"{value['mean']:.3f} ({value['min']:.3f} to {value['max']:.3f})"
            for metric in ("image AUROC of the rest", "pixel AUROC of the rest")
            for value in (record["values"][metric] for record in (without, with_them))
        ]
        cells.append(alarms(with_them["values"]["false alarms"]))
        cells.append(f"{with_them['values']['fit CPU s']['mean']:.0f}")
        rows.append((category.removesuffix("256"), str(with_them["runs"]), *cells))
    header = (
        "category",
        "seeds",
        "image AUROC, without",
        "with",
        "pixel AUROC, without",
        "with",
        "false alarms",
        "CPU s",
    )
    return Table(header, (10, 8, 18, 18, 18, 18, 14, 8), rows)


CLEANING = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "resnet18": "ResNet-18",
    "filterbank": "filter bank",
}


def cleaning() -> Table:
    """Defective images that were mixed into a folder of good ones."""
    records = read()
    rows = []
    for category in CATEGORIES:
        for name, title in CLEANING.items():
            record = records.get(f"cleaning/{category}/{name}")
            if record is None:
                continue
            last, within, marked = (
                record["values"][key]
                for key in ("last rank", "all within first 8", "good images that stand out")
            )
            rows.append(
                (
                    f"{category.removesuffix('256')}, {title}",
                    str(record["runs"]),
                    f"{last['mean']:.1f} ({last['min']:.0f} to {last['max']:.0f})",
                    f"{within['mean']:.0%}",
                    f"{marked['mean']:.1%}",
                )
            )
    header = (
        "category, features",
        "draws",
        "rank of the last of 5",
        "all 5 within the first 8",
        "good images marked",
    )
    return Table(header, (30, 10, 22, 20, 18), rows)


def recipes() -> Table:
    """Recipes as they come."""
    records = read()
    rows = []
    for setting in ("industrial-adapt", "few-shot 16"):
        for category in CATEGORIES:
            record = records.get(f"recipes/{category}/{setting}")
            if record is None:
                continue
            values = {name: value["mean"] for name, value in record["values"].items()}
            name, _, n_train = setting.partition(" ")
            images = f", {n_train} good images" if n_train else ""
            rows.append(
                (
                    f"`{name}`, {category.removesuffix('256')}{images}",
                    f"{values['image AUROC']:.3f}",
                    f"{values['pixel AUROC']:.3f}",
                    f"{values['found']:.1%}",
                    f"{values['false alarms']:.1%}",
                    f"{values['CPU s']:.0f}",
                )
            )
    header = ("recipe", "image AUROC", "pixel AUROC", "found", "false alarms", "CPU s")
    return Table(header, (34, 14, 14, 12, 14, 12), rows)


TABLES: dict[str, Callable[[], Table]] = {
    "accuracy": accuracy,
    "defect regions": defect_regions,
    "corrupted images, AUROC": lambda: corrupted("image AUROC", "{:.3f}".format),
    "corrupted images, false alarms": lambda: corrupted("false alarms", percent),
    "corrupted images, misses": lambda: corrupted("misses", percent),
    "cleaning": cleaning,
    "detectors": detectors,
    "drift": drift,
    "false positives": false_positives,
    "few images": few_images,
    "partial_fit": in_parts,
    "noise": noise,
    "recipes": recipes,
    "trained": trained,
    "known defects": known_defects,
    "synthetic defects": synthetic_defects,
    "PatchCore": readme_accuracy,
    "PatchCore, false positives": patchcore_false_positives,
}


def markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    head, rule, *rows = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, rule.replace(" ", ""), *rows, ""])


def list_table(table: Table) -> str:
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        f"   :widths: {' '.join(map(str, table.widths))}",
        "",
    ]
    for row in (table.header, *table.rows):
        first, *others = row
        lines += [f"   * - {first}".rstrip(), *(f"     - {cell}".rstrip() for cell in others)]
    return "\n".join([*lines, "", ""])


def filled(page: Path) -> str:
    """The text of a page with its tables as the file of figures has them."""
    form = markdown if page.suffix == ".md" else list_table

    def fill(found: re.Match[str]) -> str:
        return found[1] + form(TABLES[found[2]]()) + found[4]

    return MARKED[page.suffix].sub(fill, page.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    stale = [
        name for name in PAGES if filled(ROOT / name) != (ROOT / name).read_text(encoding="utf-8")
    ]
    for name in stale:
        if not args.check:
            (ROOT / name).write_text(filled(ROOT / name), encoding="utf-8")
        print(f"{name}: {'not up to date' if args.check else 'written'}")
    sys.exit(bool(stale and args.check))


if __name__ == "__main__":
    main()
