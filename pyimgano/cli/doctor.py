"""``pyimgano doctor``: what this installation has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyimgano.cli import _common

__all__ = ["main"]

_PROG = "pyimgano doctor"
_DESCRIPTION = """\
Tell what this installation has: versions, optional packages, pretrained weights, threads
and where compiled code is kept. Nothing is downloaded and nothing is changed.
"""
_EPILOG = _common.exit_statuses(
    {
        _common.EXIT_OK: "all that a weight-free pipeline needs is there",
        _common.EXIT_ERRORS: "something is wrong with this installation",
    }
)

# Uses of each extra.
_USES = {
    "imagenet": 'features="efficientnet_lite0", industrial-fast-imagenet',
    "onnx": 'engine="onnxruntime" of networks',
    "openvino": 'engine="openvino" of networks',
    "torch": "networks other than ResNets and EfficientNet-Lite0, GPUs",
    "timm": 'vision transformers, features="timm:NAME"',
}


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _doctor(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG, takes_config=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _doctor(options: argparse.Namespace) -> int:
    found = _examine()
    if options.json:
        _common.answer(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _common.answer("\n".join(_in_words(found)))
    return _common.EXIT_ERRORS if found["problems"] else _common.EXIT_OK


def _examine() -> dict[str, Any]:
    from pyimgano._kernels.compiling import cache_folder
    from pyimgano.backbones._weights import weights_folders
    from pyimgano.utils import environment
    from pyimgano.utils._optional import EXTRAS, has_extra
    from pyimgano.utils._threads import n_threads

    compiled, why_not = cache_folder()
    found: dict[str, Any] = {
        "environment": environment(),
        "threads_used": n_threads(),
        "extras": {name: has_extra(name) for name in EXTRAS},
        "weights": [
            {"folder": str(folder), "what": what, "files": _weights_in(folder)}
            for folder, what in weights_folders()
        ],
        "compiled_code": None if compiled is None else str(compiled),
    }
    found["problems"] = _opencv_problems(found["environment"]["packages"])
    if compiled is None:
        found["problems"].append(why_not)
    return found


def _weights_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(one.name for one in folder.iterdir() if one.suffix in (".pth", ".safetensors"))


def _opencv_problems(packages: dict[str, str]) -> list[str]:
    several = [name for name in packages if name.startswith("opencv-")]
    if len(several) < 2:
        return []
    return [
        f"{' and '.join(several)} are installed and overwrite each other's files. Uninstall all "
        "of them, then install one."
    ]


def _in_words(found: dict[str, Any]) -> list[str]:
    env = found["environment"]
    packages = dict(env["packages"])
    version = packages.pop("pyimgano")
    limits = ", ".join(f"{name}={value}" for name, value in env["threads"].items())
    lines = [
        f"pyimgano {version}, Python {env['python']}, {env['platform']}",
        f"threads: {found['threads_used']} of {env['cpu_count']} cores"
        + (f" ({limits})" if limits else ""),
        "packages: " + ", ".join(f"{name} {number}" for name, number in packages.items()),
    ]
    for name, present in found["extras"].items():
        state = "installed" if present else f'missing: pip install "pyimgano[{name}]"'
        lines.append(f"extra {name}: {state} (for {_USES[name]})")
    for place in found["weights"]:
        files = ", ".join(place["files"]) or "none"
        lines.append(f"weights in {place['folder']} ({place['what']}): {files}")
    lines.append(f"compiled code: {found['compiled_code'] or 'kept nowhere'}")
    lines += [f"problem: {text}" for text in found["problems"]] or ["no problem found"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
