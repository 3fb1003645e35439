"""The model card of a bundle: what the pipeline is for, what it promises, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from pyimgano.calibration._words import threshold_in_words

__all__ = ["card_html", "card_markdown"]


_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 46rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .25rem 1rem .25rem 0;
       border-bottom: 1px solid #d0d7de; vertical-align: top; overflow-wrap: anywhere; }
"""


def card_markdown(config: dict[str, Any], title: str, notes: str) -> str:
    """Write the model card in Markdown.

    Parameters
    ----------
    config : dict
        Content of ``infer_config.json``.
    title, notes : str
        First line, and text of the person who delivers.

    Returns
    -------
    str
    """
    lines = [f"# {title}", ""]
    for heading, blocks in _sections(config, notes):
        lines += [f"## {heading}", ""]
        for block in blocks:
            if isinstance(block, str):
                lines += [block, ""]
                continue
            head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in block)
            lines.append(f"| {' | '.join(head)} |")
            lines.append(f"|{'---|' * len(head)}")
            lines += [f"| {' | '.join(row)} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def card_html(config: dict[str, Any], title: str, notes: str) -> str:
    """Write the model card as a page that needs no other file.

    Parameters
    ----------
    config : dict
        Content of ``infer_config.json``.
    title, notes : str
        First line, and text of the person who delivers.

    Returns
    -------
    str
    """
    body = [f"<h1>{escape(title)}</h1>"]
    for heading, blocks in _sections(config, notes):
        body.append(f"<h2>{escape(heading)}</h2>")
        for block in blocks:
            if isinstance(block, str):
                body.append(f"<p>{escape(block)}</p>")
                continue
            body.append("<table>")
            for number, row in enumerate(block):
                tag = "td" if number else "th"
                cells = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
                body.append(f"<tr>{cells}</tr>")
            body.append("</table>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _sections(
    config: dict[str, Any], notes: str
) -> Iterator[tuple[str, Sequence[str | list[tuple[str, ...]]]]]:
    if notes:
        yield "Notes", notes.split("\n\n")
    yield "What it does", _purpose(config)
    yield "How often good parts fail", _rates(config)
    if config["defects"] is not None:
        yield "Defects", _regions(config)
    yield "Limits", _limits(config)
    yield "What it is made of", [_parts(config)]
    if config["golden"]:
        yield "Golden images", _golden(config)
    yield (
        "Use and check",
        [
            "Judge images: pyimgano infer --bundle THIS_BUNDLE photos/new",
            "Check that the bundle is whole, and that it scores as it did where it was made: "
            "pyimgano validate-infer-config THIS_BUNDLE",
        ],
    )


def _purpose(config: dict[str, Any]) -> list[str]:
    return [
        "The model has learned what good parts look like, from images of good parts only. It "
        "gives each new image an anomaly score: the higher, the less it is like them. An image "
        f"whose score is above the threshold of {config['threshold']['value']:.6g} fails.",
        "It does not know kinds of defects, and says that a part looks unlike the good ones, "
        "not why.",
    ]


def _rates(config: dict[str, Any]) -> list[str]:
    provenance = config["threshold"]["provenance"]
    if provenance is None:
        return [
            "The threshold was not calibrated (there is no ThresholdCalibrator in the pipeline), "
            "so no rate can be stated. Measure it on good parts before you rely on it."
        ]
    said = [f"{line[0].upper()}{line[1:]}." for line in threshold_in_words(provenance)]
    if provenance["n_images"]:
        said.append(
            f"This was found on {provenance['n_images']} images of good parts; their scores are "
            f"{provenance['scores']}."
        )
    return said


def _regions(config: dict[str, Any]) -> list[str]:
    provenance = config["pixel_threshold"]["provenance"]
    used = {k: v for k, v in config["defects"].items() if v not in (None, False, 0, [])}
    return [
        "Regions of an image whose anomaly map is above "
        f"{config['pixel_threshold']['value']:.6g} are reported as defects. About "
        f"{provenance['expected_false_positive_rate']:.1%} of new good parts will have one.",
        f"Options: {', '.join(f'{key}={value!r}' for key, value in used.items())}.",
        "The verdict follows from the score, not from the regions: an image that passes may have "
        "a region, and one that fails may have none.",
    ]


def _limits(config: dict[str, Any]) -> list[str]:
    limits = [
        "The rates hold for parts, light, lens and position like those of the images that it was "
        "calibrated on. After a change of any of them, judge some good parts, and calibrate anew "
        "(pyimgano recalibrate) if more of them fail than stated.",
        "How many defects are found depends on the defects and was not measured by making this "
        "bundle. Measure it on defective parts (pyimgano benchmark).",
    ]
    if any(one["embedded"] is False for one in config["model"]["networks"]):
        limits.append(
            "The weights of the network are not in this bundle. They are looked for by their "
            "SHA-256, beside the pipeline and in the folders that PYIMGANO_WEIGHTS names."
        )
    return limits


def _parts(config: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("what", "value"),
        ("classes", ", ".join(config["model"]["classes"])),
    ]
    for one in config["model"]["networks"]:
        rows.append(("network", f"{one['backbone']}, weights {one['weights_sha256'][:16]}..."))
    rows.append(("format of frames", str(config["input_format"])))
    for step in config["preprocessing"]:
        said = ", ".join(f"{key}={value!r}" for key, value in step["parameters"].items())
        rows.append((step["step"], said or "as it is"))
    packages = config["environment"]["packages"]
    rows += [
        ("made", f"{config['created']}, with pyimgano {config['pyimgano']}"),
        ("SHA-256 of the pipeline", config["model"]["sha256"]),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    return rows


def _golden(config: dict[str, Any]) -> list[str | list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = [("file", "score", "verdict")]
    for one in config["golden"]:
        rows.append((one["file"], f"{one['score']:.6g}", "FAIL" if one["pred"] else "PASS"))
    return ["These images, scored anew, have to get these scores.", rows]
