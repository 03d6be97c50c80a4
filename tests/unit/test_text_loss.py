"""The loss of a text, and the probabilities of the next token, for every family."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import lively

from folio.data.batches.windows import ValidationWindows
from folio.data.tokenizers.char import CharTokenizer
from folio.generation.next_token import next_token_probabilities
from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig
from folio.objectives.metrics import token_sums
from folio.objectives.text_loss import text_losses
from folio.runtime.errors import FolioError

TEXT = "to be, or not to be: that is the question"
TOKENIZER = CharTokenizer.from_text(TEXT)


def config(**choices: object) -> TransformerConfig:
    sizes = {"vocab_size": TOKENIZER.vocab_size + 3, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 8}
    return TransformerConfig(**(sizes | choices))  # type: ignore[arg-type]


DECODER = lively(GPT(config())).eval()
ENCODER = lively(Encoder(config(family="encoder"))).eval()
ENCODER_DECODER = lively(EncoderDecoder(config(family="encoder_decoder", conditioning="hidden_cache"))).eval()


def encoded(text: str) -> torch.Tensor:
    return torch.tensor([TOKENIZER.encode(text).tolist()])


def test_a_decoder_predicts_each_token_of_a_short_text_from_those_before_it() -> None:
    tokens = encoded("to be, or")
    ids, losses = text_losses(DECODER, TOKENIZER, "to be, or")
    assert ids == tokens[0, 1:].tolist()
    expected = F.cross_entropy(DECODER(tokens[:, :-1])[0], tokens[0, 1:], reduction="none")
    torch.testing.assert_close(losses, expected.double(), rtol=1e-4, atol=1e-5)


def test_a_long_text_is_measured_as_validation_measures_a_split() -> None:
    ids, losses = text_losses(DECODER, TOKENIZER, TEXT)
    assert len(ids) == len(losses) == len(TEXT) - 1
    windows = ValidationWindows(np.array(TOKENIZER.encode(TEXT)), 16)
    nats, _, n_targets = token_sums(DECODER, windows.batch(range(len(windows)))).tolist()
    assert n_targets == len(losses)
    assert losses.sum().item() == pytest.approx(nats)


def test_an_encoder_decoder_predicts_every_token_from_the_prefix() -> None:
    ids, losses = text_losses(ENCODER_DECODER, TOKENIZER, "or not", prefix="to be, ")
    assert TOKENIZER.decode(ids) == "or not"
    prefix, text = encoded("to be, "), encoded("or not")
    hidden = ENCODER_DECODER.hidden(torch.cat((prefix[:, -1:], text[:, :-1]), dim=1), prefix)
    expected = F.cross_entropy(ENCODER_DECODER.output(hidden)[0].float(), text[0], reduction="none")
    torch.testing.assert_close(losses, expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "text", "prefix", "message"),
    [
        (DECODER, "t", None, "at least 2 tokens"),
        (DECODER, "", "or", "gives no tokens"),
        (DECODER, "@", None, "no id for '@'"),
        (ENCODER, "to be", None, "the model is an encoder"),
        (ENCODER_DECODER, "to be", None, "there is none; give one"),
        (ENCODER_DECODER, TEXT, "to", "longer than the model's context_length=16"),
    ],
)
def test_a_text_without_a_loss_is_refused_in_one_line(
    model: GPT | Encoder | EncoderDecoder, text: str, prefix: str | None, message: str
) -> None:
    with pytest.raises(FolioError, match=message) as refused:
        text_losses(model, TOKENIZER, text, prefix)
    assert "\n" not in str(refused.value)


def test_the_next_token_of_each_family_comes_from_its_last_logits() -> None:
    n_symbols = TOKENIZER.vocab_size
    long = TEXT[:30]  # only the last 16 tokens fit
    logits = {
        "decoder": DECODER(encoded(long[-16:]))[0, -1],
        "encoder_decoder": ENCODER_DECODER.output(
            ENCODER_DECODER.hidden(encoded("be t"[-1] + "o"), encoded("to be t"))
        )[0, -1],
    }
    asked = {
        "decoder": next_token_probabilities(DECODER, TOKENIZER, long),
        "encoder_decoder": next_token_probabilities(ENCODER_DECODER, TOKENIZER, "o", "to be t"),
    }
    masked = torch.tensor([[*TOKENIZER.encode("to ").tolist(), n_symbols, *TOKENIZER.encode("e").tolist()]])
    logits["encoder"] = ENCODER.output(ENCODER.hidden(masked))[0, 3]
    asked["encoder"] = next_token_probabilities(ENCODER, TOKENIZER, "to [MASK]e")
    for family, probabilities in asked.items():
        assert probabilities.shape == (n_symbols,)
        assert math.isclose(probabilities.sum().item(), 1.0, rel_tol=1e-5)
        torch.testing.assert_close(probabilities, logits[family][:n_symbols].float().softmax(0), rtol=1e-4, atol=1e-6)


def test_one_blank_at_a_time() -> None:
    with pytest.raises(FolioError, match="more than one"):
        next_token_probabilities(ENCODER, TOKENIZER, "[MASK]o [MASK]")


@pytest.mark.parametrize(("prefix", "text"), [("to be, ", "or"), ("t", "o be"), (TEXT, "or"), ("to be ", TEXT)])
def test_a_decoder_predicts_a_text_after_a_prefix(prefix: str, text: str) -> None:
    """A prefix that does not fit into the context loses its beginning; a longer text is read in windows."""
    ids, losses = text_losses(DECODER, TOKENIZER, text, prefix=prefix)
    assert TOKENIZER.decode(ids) == text
    if len(text) <= 16:
        tokens = encoded((prefix + text)[-17:])
        logits = DECODER(tokens[:, :-1])[0, -len(text) :]
        expected = F.cross_entropy(logits, tokens[0, -len(text) :], reduction="none").double()
    else:
        _, expected = text_losses(DECODER, TOKENIZER, prefix[-1] + text)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_an_empty_prefix_is_none() -> None:
    assert text_losses(DECODER, TOKENIZER, "to be", prefix="")[0] == TOKENIZER.encode("o be").tolist()
