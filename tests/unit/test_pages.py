"""README.md and docs/ name files, modules, functions and tests that exist, and can be found from one another."""

import ast
import re
from pathlib import Path

import pytest
from test_imports import LAYERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
STEP = re.compile(r"`([\w/]+\.py):([A-Za-z_][\w.]*\w)`")
LONG_PAGE = 100
"""Lines from which on a page begins with links to its sections."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_spans(page: Path) -> list[str]:
    """Inline code, without fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text_of(page)))]


def added_by(page: Path) -> set[str]:
    """Paths of the files that a page tells the reader to write."""
    return set(re.findall(r"^`([^`\n]+)`\n```", text_of(page), re.MULTILINE))


def members(path: Path) -> set[str]:
    """Names that a module defines: function, Class, Class.method, Class.field, CONSTANT."""
    return set(names_in(ast.parse(text_of(path)).body, ""))


def names_in(body: list[ast.stmt], prefix: str) -> list[str]:
    names = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(f"{prefix}{node.name}")
        if isinstance(node, ast.ClassDef):
            names += names_in(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign):
            names += [f"{prefix}{target.id}" for target in node.targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(f"{prefix}{node.target.id}")
        if isinstance(node, ast.If):
            names += names_in(node.body, prefix)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not prefix:
            names += [alias.asname or alias.name for alias in node.names]
    return names


def is_defined(dotted: str) -> bool:
    """Return whether folio.models.gpt.GPT and the like is a module, or a name in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT / "src" / Path(*parts[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return length == len(parts) or ".".join(parts[length:]) in members(file)
    return False


@each_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    pattern = re.compile(r"(?:src|conf|scripts|tests|benchmarks|docs)/[\w./-]*")
    named = {span for span in code_spans(page) if pattern.fullmatch(span)} - added_by(page)
    assert not {path for path in named if not (ROOT / path).exists()}


@each_page
def test_the_modules_that_a_page_names_exist(page: Path) -> None:
    named = {match[1] for span in code_spans(page) if (match := re.fullmatch(r"(folio(?:\.\w+)+)(?:\(.*\))?", span))}
    assert not {name for name in named if not is_defined(name)}


@each_page
def test_the_functions_that_a_page_names_exist(page: Path) -> None:
    """`models/gpt.py:GPT.forward`: a path relative to src/folio or to the root."""
    for path, name in STEP.findall(text_of(page)):
        file = next((place for place in (ROOT / "src" / "folio" / path, ROOT / path) if place.is_file()), None)
        assert file, f"there is no {path}"
        assert name in members(file), f"{path} has no {name}"


def test_each_step_of_a_batch_and_of_a_config_value_goes_down() -> None:
    """The steps of a numbered list are in the same package or in one of a lower layer than the step before."""
    sections = {section.split("\n")[0]: section for section in text_of(DOCS / "architecture.md").split("\n## ")}
    both = sections["One batch"] + sections["One config value"]
    lists = re.findall(r"(?:^\d+\. .*\n)+", both, re.MULTILINE)
    assert len(lists) == 4
    for steps in lists:
        layers = [layer_of(path) for path, _ in STEP.findall(steps)]
        assert len(layers) >= 5
        assert layers == sorted(layers, reverse=True)


def layer_of(path: str) -> int:
    """Number of the layer of a package in LAYERS; an entry point is above all."""
    package = path.split("/")[0]
    return next((number for number, layer in enumerate(LAYERS) if package in layer), len(LAYERS))


def test_the_architecture_page_draws_the_layers() -> None:
    rows = re.findall(r"^\| (\d) \| (.*) \|$", text_of(DOCS / "architecture.md"), re.MULTILINE)
    drawn = {int(number): tuple(re.findall(r"`(\w+)`", packages)) for number, packages in rows}
    assert drawn == dict(enumerate(LAYERS, 1))


@each_page
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    """Files as `test_faults.py` or with their folders, and functions as `test_a_full_disk_...`."""
    sources = {path.name: text_of(path) for path in (ROOT / "tests").rglob("test_*.py")}
    named = {span for span in code_spans(page) if re.fullmatch(r"test_\w+(\.py)?", span)}
    functions = set(re.findall(r"def (test_\w+)", "".join(sources.values())))
    assert not named - set(sources) - functions


def test_the_tests_of_each_promise_of_security_exist() -> None:
    """The last column of a table of promises holds parts of names of tests, after the file: a letter or its path."""
    page = text_of(DOCS / "security.md")
    files = {letter: path for path, letter in re.findall(r"`(tests/\S+\.py)` \(([A-Z])\)", page)}
    rows = [row for row in re.findall(r"^\|(.*)\|$", page, re.MULTILINE) if row.count("|") == 2 and "---" not in row]
    assert len(rows) > 15
    for row in rows:
        promise, _, cell = row.split("|")
        if cell.strip() == "test":
            continue
        found = re.findall(rf"\b[{''.join(files)}]\b|`[^`]+`", cell)
        assert found, f"no test of: {promise}"
        file = ""
        for word in (word.strip("`") for word in found):
            if word in files or word.endswith(".py"):
                file = files.get(word) or word
                file = file if "/" in file else str(next((ROOT / "tests").rglob(file)).relative_to(ROOT))
            else:
                assert re.search(rf"def test_\w*{word}", text_of(ROOT / file)), f"{file} has no test of {word}"


@each_page
def test_a_long_page_begins_with_links_to_its_sections(page: Path) -> None:
    text = FENCE.sub("", text_of(page))
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if page.name == "README.md" or text_of(page).count("\n") < LONG_PAGE:
        return
    links = re.findall(r"^- \[(.+)\]\(#[\w-]+\)$", text.split("\n## ")[0], re.MULTILINE)
    assert links == [section.replace("`", "") for section in sections]


def test_the_readme_fits_two_screens_and_links_every_page() -> None:
    readme = text_of(ROOT / "README.md")
    assert readme.count("\n") <= 100
    assert not {page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme}
    assert "](CHANGELOG.md)" in readme
