"""Patterns of known tokenizers pass, and those that could take forever do not."""

import pytest

from folio.data.tokenizers.huggingface import SAFE_PATTERNS
from folio.data.tokenizers.patterns import UncheckedPatternError, check_pattern

KNOWN = {
    "GPT-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "Llama 3": SAFE_PATTERNS[0],
    "Qwen": SAFE_PATTERNS[1],
    "GPT-4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "DeepSeek": (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    ),
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
    "digits in threes": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
    "classes that intersect": r"[\p{Lu}\p{M}&&[^\p{Han}]]*x|[\p{Han}]+",
    "CLIP": r"<\|startoftext\|>|'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "ALBERT": r" {2,}",
    "nothing": "",
    "a brace": "a{b}",
}

ENDLESS = [
    r"(x+x+)+y",
    r"(x|x)*y",
    r"(a|ab)*c",
    r"x*x*x*x*y",
    r"(a?){5}",
    "a?" * 30 + "a" * 30,
    "(a|a)" * 30,
    r"(?:a{0,9}){0,9}",
    r"\p{N}{1,3}+",
    r"x{2}{3}",
    r"(?:(?:a+))+",
    r"(?=(a+)+b)",
    "a{1,5000}",
    "a" * 20_000,
]

BEYOND_CHECKING = [
    r"(a)\1",
    r"(?<n>x\g<n>?y)",
    r"(?~a)",
    r"(?(1)a)",
    r"(?#c)",
    "((((",
    "a)",
    "[a",
    "\\",
    r"\p{",
    "(" * 100_000,
]


@pytest.mark.parametrize("name", KNOWN)
def test_the_patterns_of_known_tokenizers_pass(name: str) -> None:
    check_pattern(KNOWN[name])


@pytest.mark.parametrize("pattern", ENDLESS + BEYOND_CHECKING, ids=lambda pattern: pattern[:20])
def test_a_pattern_that_may_take_forever_or_cannot_be_checked_is_refused(pattern: str) -> None:
    with pytest.raises(UncheckedPatternError):
        check_pattern(pattern)
