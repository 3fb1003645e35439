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


# ---- signs -----------------------------------------------------------------------
SCORE = re.compile(r"(^|_)(scores?|offset|threshold|score_samples|decision_function)_?$")
# What only changes the type or shape of its first argument, or of the object it belongs to.
SAME_VALUES = {"array", "asarray", "astype", "concatenate", "float", "float64", "ravel", "reshape"}


def head(node: ast.AST) -> str:
    """Name of the values that an expression stands for; empty if it computes others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return head(node.value)
    if isinstance(node, ast.Call):
        name = head(node.func)
        if name not in SAME_VALUES:
            return name
        if isinstance(node.func, ast.Attribute) and SCORE.search(head(node.func.value)):
            return head(node.func.value)
        return head(node.args[0]) if node.args else ""
    return ""


def is_number(node: ast.AST, *numbers: float) -> bool:
    try:
        return ast.literal_eval(node) in numbers
    except (ValueError, TypeError):
        return False


def negations_of_scores(source: str) -> list[str]:
    """Expressions that turn the sign of a score, an offset or a threshold by hand."""
    found = []
    for node in ast.walk(ast.parse(source)):
        negated: list[ast.AST] = []
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            negated = [node.operand]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
            if any(is_number(side, -1) for side in (node.left, node.right)):
                negated = [node.left, node.right]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            negated = [node.right] if is_number(node.left, 0) else []
        elif isinstance(node, ast.Call) and head(node.func) == "negative":
            negated = node.args[:1]
        if any(SCORE.search(head(one)) for one in negated):
            found.append(ast.unparse(node))
    return found


def test_signs_are_turned_in_one_place():
    # The battery of checks states the contract on its own, without the package's translation.
    turned = [
        f"{module}: {expression}"
        for module, path in FILES.items()
        if module != "pyimgano._decision" and room_of(module) != "testing"
        for expression in negations_of_scores(path.read_text(encoding="utf-8"))
    ]
    assert not turned, "use pyimgano._decision.flip: " + "; ".join(turned)


def test_negations_are_found_however_they_are_written():
    for expression in (
        "-scores",
        "-self.offset_",
        "-self.training_scores_[keep]",
        "-detector.score_samples(X)",
        "-np.asarray(self.threshold_, dtype=float)",
        "-scores.astype(float)",
        "-1 * scores",
        "scores * -1.0",
        "0.0 - threshold",
        "np.negative(scores)",
    ):
        assert negations_of_scores(f"y = {expression}") == [expression]
    for expression in ("1 - scores", "scores - offset", "-rankdata(scores)", "-(-len(X) // 2)"):
        assert negations_of_scores(f"y = {expression}") == []


# ---- docstrings ------------------------------------------------------------------
def test_docstrings_open_with_a_statement():
    # "Return True if ..." and "Names of ..." are understood at first reading; "What is ..." and
    # "Whether ..." look like questions.
    question = re.compile(r"\s*(What|Who|Whom|Whose|Which|Whether|How|Where|When|Why)\b")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    questions = []
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node, clean=False) if isinstance(node, documented) else None
            if text and question.match(text):
                where = getattr(node, "name", "the module")
                questions.append(f"{module}: {where}: {text.strip().splitlines()[0]}")
    assert not questions, "\n".join(questions)
