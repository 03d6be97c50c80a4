"""The lesson's Python runs as written, block after block, and prints what the page says."""

import contextlib
import io
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_lesson_prints_what_it_says() -> None:
    page = (DOCS / "teach.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == page.count("```python") > 8
    names: dict[str, object] = {}
    for code, printed in blocks:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(compile(code, "docs/teach.md", "exec"), names)
        assert shown.getvalue() == printed


def test_the_glossary_is_in_order_and_names_keys_that_exist() -> None:
    rows = re.findall(r"^\| (.+?) \| .+? \| (.*) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    terms = [term.lower() for term, _ in rows[1:]]
    assert len(terms) > 50
    assert terms == sorted(terms)
    keys = set(re.findall(r"^\| `([\w.]+)`", (DOCS / "config.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert not {key for _, cell in rows for key in re.findall(r"`([^`]+)`", cell)} - keys
