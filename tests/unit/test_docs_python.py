"""The Python in docs/models.md runs as written."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SNIPPETS = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "my_gpt2" not in code]


def test_the_snippets_are_found() -> None:
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.splitlines()[-1])
def test_a_snippet_runs(code: str) -> None:
    exec(compile(code, str(PAGE), "exec"), {})
