"""Rooms of the package import only from rooms above them in the table of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pyimgano

PACKAGE = Path(pyimgano.__file__).resolve().parent
TABLE = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| room |")[1]
FILES = {
    ".".join(("pyimgano", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# The package itself and its former names point everywhere; the version stands alone.
OUTSIDE = {"pyimgano", "_moved", "_version"}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def order() -> list[str]:
    rows = TABLE.split("\n\n")[0].splitlines()[2:]
    return [
        name.removesuffix(".py").removesuffix("/")
        for row in rows
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]


def imports(module: str, path: Path) -> set[str]:
    """Modules of the package that a module imports, also in functions and for type checkers."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                home = ".".join([*parts, *filter(None, [home])])
            inner = {f"{home}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else home for name in inner}
    return {name for name in found if name.split(".")[0] == "pyimgano"}


def test_every_room_has_its_place_in_the_table():
    assert sorted(order()) == sorted({room_of(module) for module in FILES} - OUTSIDE)


def test_no_arrow_runs_up():
    place = {name: k for k, name in enumerate(order())}
    upward = []
    for module, path in FILES.items():
        if room_of(module) in OUTSIDE:
            continue
        for other in sorted(imports(module, path)):
            here, there = room_of(module), room_of(other)
            if there not in OUTSIDE - {"pyimgano"} and place.get(there, len(place)) > place[here]:
                upward.append(f"{module} imports {other}, which is below it")
    assert not upward, "\n".join(upward)
