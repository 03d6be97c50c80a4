"""TODO folio.config.tokenizer."""

from typing import Annotated, Literal

from pydantic import Field

from folio.config.section import Section


class TokenizerConfig(Section):
    """Of a tokenizer that leaves nothing to choose."""

    name: Literal["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "char", "byte"]


class WordTokenizerConfig(Section):
    name: Literal["word"]
    max_vocab_size: Annotated[int, Field(ge=4, le=2**31 - 1)] | None
    """How many ids there may be, those of the unknown, of joins and of spaces included; null: one for every word."""
