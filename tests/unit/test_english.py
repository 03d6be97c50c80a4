"""Docstrings exist and begin in plain English, as far as a program can tell."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "train.py",
    *sorted(path for folder in ("src", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")),
]

FORBIDDEN_FIRST_WORDS = {"Of", "What", "Those", "Whom", "Whose"}
"""A docstring that begins with one of these is a fragment: "Of the model" for "Number of layers of the model"."""


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the docstrings of a module, its classes, functions and attributes.

    An attribute docstring is a string that follows an assignment.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for index, statement in enumerate(node.body):
            if index > 0 and not isinstance(node.body[index - 1], ast.Assign | ast.AnnAssign):
                continue
            match statement:
                case ast.Expr(ast.Constant(str()) as docstring):
                    yield docstring


def test_docstrings_of_all_kinds_are_found() -> None:
    source = """'module'
NAME = 1
'constant'
class A:
    'class'
    x: int
    'attribute'
    def f(self):
        'method'
"""
    found = {docstring.value for docstring in docstrings(ast.parse(source))}
    assert found == {"module", "constant", "class", "attribute", "method"}
    assert {ROOT / "train.py", ROOT / "src" / "folio" / "models" / "gpt.py"} <= set(FILES)


def test_no_docstring_begins_with_a_fragment() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{docstring.lineno}: {str(docstring.value)[:60]}"
        for path in FILES
        for docstring in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if str(docstring.value).split(maxsplit=1)[0] in FORBIDDEN_FIRST_WORDS
    ]
    assert not wrong, "begin these docstrings with what the thing is or does:\n" + "\n".join(wrong)


def test_every_module_says_what_it_is_for() -> None:
    wrong = []
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source))
        if source and (not docstring or docstring.startswith("TODO")):
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong, "these modules have no docstring:\n" + "\n".join(wrong)
