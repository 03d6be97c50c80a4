"""The commands on the pages of README.md and docs/."""

import re
from pathlib import Path
from typing import NamedTuple

from workspace import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\$ )?((?:python (?:train\.py|scripts/|-m benchmarks)|make |tensorboard ).*)")


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*match) for match in FENCE.findall(text)]


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page, from blocks without a language and from backticks, once each, without comments."""
    text = page.read_text(encoding="utf-8")
    shown = [re.sub(r"\\\n\s*", "", block.text) for block in blocks(text) if not block.language]
    lines = [line for block in shown for line in block.splitlines()]
    # A command in running text may continue on the next line.
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = [match[1] for code in (*lines, *spans) if (match := COMMAND.fullmatch(code.strip()))]
    return list(dict.fromkeys(re.sub(r"\s+# .*", "", command).strip() for command in found))
