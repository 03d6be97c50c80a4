"""Any prompt is either continued or refused in one line."""

import pytest
from tiny_models import build

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.word import WordTokenizer
from folio.generation.generate import generate_text
from folio.models import GPT
from folio.models.sampling import SamplingParams
from folio.runtime.errors import FolioError

TOKENIZERS: dict[str, Tokenizer] = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer("\n :EMOR"),
    "word": WordTokenizer(["ROMEO", ":"]),
}


def written(tokenizer: Tokenizer, prompt: str) -> str:
    model = build(GPT, vocab_size=tokenizer.vocab_size)
    return "".join(
        generate_text(model, tokenizer, prompt, max_new_tokens=3, sampling=SamplingParams(temperature=0.0), seed=1)
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_of_a_megabyte_is_continued(name: str) -> None:
    prompt = "ROMEO: " * 150_000
    assert written(TOKENIZERS[name], prompt).startswith(prompt)


@pytest.mark.parametrize(
    "prompt", ["\N{ROCKET}\N{ZERO WIDTH JOINER}\N{ROSE}", "\0\x1b[2J\x07\r"], ids=["emoji", "control"]
)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_characters_are_either_continued_or_named_in_the_message(name: str, prompt: str) -> None:
    if name == "char":
        with pytest.raises(FolioError, match=rf"has no id for .*U\+{ord(prompt[0]):04X}"):
            written(TOKENIZERS[name], prompt)
    else:
        assert written(TOKENIZERS[name], prompt).startswith(prompt)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_of_a_command_line_that_are_not_utf8_are_named(name: str) -> None:
    with pytest.raises(FolioError) as caught:
        written(TOKENIZERS[name], "ROMEO\udcff")
    assert r"'\udcff'" in str(caught.value)
    assert "position 5" in str(caught.value)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_missing_prompt_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(FolioError, match="prompt='' gives no tokens"):
        written(TOKENIZERS[name], "")
