"""What README.md and the pages of docs/ tell people to type."""

import re
from pathlib import Path
from typing import NamedTuple

from workspace import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\$ )?((?:python (?:train\.py|scripts/)|make |tensorboard ).*)")


class Block(NamedTuple):
    """Of code, between fences."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*match) for match in FENCE.findall(text)]


def commands_of(page: Path) -> list[str]:
    """What a page shows in blocks of no language and between backticks, each once, without its comment."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(text) if not block.language for line in block.text.splitlines()]
    # A command in running text may go on in the next line.
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = [match[1] for code in (*lines, *spans) if (match := COMMAND.fullmatch(code.strip()))]
    return list(dict.fromkeys(re.sub(r"\s+# .*", "", command).strip() for command in found))
