"""Each family generates the same text alone or in a batch, with or without a cache."""

from collections.abc import Iterator, Sequence
from functools import cache as memoized
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONDITIONINGS, OTHER_CHOICES, TINY, build
from torch import Tensor

from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.word import WordTokenizer
from folio.generation.generate import (
    DecodingBatch,
    encode_prefixes,
    generate,
    generate_text,
    generate_tokens,
)
from folio.generation.stop_strings import until_stop
from folio.models import GPT, EncoderDecoder
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.sampling import SamplingParams
from folio.models.transformer_config import BOUNDED_POSITIONS
from folio.runtime.errors import FolioError

CONTEXT = TINY.context_length
N_SYMBOLS = 57
TOKENIZER = CharTokenizer("".join(map(chr, range(ord("0"), ord("0") + N_SYMBOLS))))
"""The models have rows for four more ids."""

GREEDY = SamplingParams(temperature=0.0)
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0, repetition_penalty=2.0),  # otherwise some models would repeat themselves
    "sampled": SamplingParams(temperature=0.8, repetition_penalty=1.2, top_k=40, top_p=0.95, min_p=0.01),
}
FAMILIES = ("decoder", *CONDITIONINGS)
WITHOUT_END = sorted(POSITIONAL_ENCODINGS.keys() - BOUNDED_POSITIONS)

each_family = pytest.mark.parametrize("family", FAMILIES)
each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
each_sampling = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)


@memoized
def model_of(family: str, encoding: str = "learned", norm_position: str = "pre") -> GPT | EncoderDecoder:
    """Return a shared model; a test must not change it."""
    changes: dict[str, Any] = OTHER_CHOICES if norm_position == "post" else {}
    changes = {"positional_encoding": encoding, "n_layers": 2, "tie_weights": False, **changes}
    return build(GPT, **changes) if family == "decoder" else build(EncoderDecoder, conditioning=family, **changes)


def given_to(family: str, *texts: str) -> dict[str, Any]:
    """Use the texts as prompts of a decoder; otherwise as prefixes, with their first characters as prompts."""
    if family == "decoder":
        return {"prompts": texts}
    return {"prompts": [text[: number % 3] for number, text in enumerate(texts)], "prefixes": texts}


def texts_of(model: GPT | EncoderDecoder, **options: Any) -> list[str]:
    defaults = {"max_new_tokens": 2 * CONTEXT, "sampling": GREEDY, "seeds": range(len(options["prompts"]))}
    return ["".join(pieces) for pieces in generate(model, TOKENIZER, **(defaults | options))]


def text_of(model: GPT | EncoderDecoder, sampling: SamplingParams = GREEDY, seed: int = 0, **options: Any) -> str:
    """Return what the model generates after ABBA."""
    (text,) = texts_of(model, prompts=["ABBA"], sampling=sampling, seeds=[seed], **options)
    return text.removeprefix("ABBA")


def tokens_of(model: GPT | EncoderDecoder, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    defaults = {"max_new_tokens": 5, "sampling": GREEDY, "seeds": [0] * len(prompts), "n_symbols": N_SYMBOLS}
    return list(generate_tokens(model, prompts, **(defaults | options)))


@torch.no_grad()
def logits_by_definition(model: GPT | EncoderDecoder, text: list[int], prefix: list[int], window: int) -> Tensor:
    """Return the logits (V,) of the token after a text, computed by `forward`."""
    tokens = torch.tensor([text[-window:]])
    return (model(tokens, torch.tensor([prefix])) if isinstance(model, EncoderDecoder) else model(tokens))[0, -1]


@pytest.mark.parametrize("use_cache", [False, True], ids=["without a cache", "with a cache"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@each_encoding
@each_family
def test_logits_are_those_of_a_forward_pass_over_the_last_tokens(
    family: str, encoding: str, norm_position: str, use_cache: bool
) -> None:
    """Prompts of several lengths, up to and past the context, where the window slides."""
    model = model_of(family, encoding, norm_position)
    texts, prefixes = [[1, 2, 3], [4] * 9, [5]], [[7, 8], [9, 10, 11, 12], [3]]
    with torch.inference_mode():
        encoder_output = encode_prefixes(model, prefixes) if isinstance(model, EncoderDecoder) else None
        batch = DecodingBatch(model, texts, encoder_output, CONTEXT, n_new=3 * CONTEXT, use_cache=use_cache)
        for step in range(CONTEXT + 8):
            logits = batch.next_logits()
            for row, (text, prefix) in enumerate(zip(texts, prefixes, strict=True)):
                torch.testing.assert_close(logits[row], logits_by_definition(model, text, prefix, CONTEXT))
            new = [(7 * step + row) % N_SYMBOLS for row in range(3)]
            batch.append(new)
            texts = [[*text, token] for text, token in zip(texts, new, strict=True)]


def test_within_the_window_tokens_keys_and_values_are_never_moved() -> None:
    model = model_of("decoder")
    with torch.inference_mode():
        batch = DecodingBatch(model, [[1, 2, 3]], None, CONTEXT, n_new=10, use_cache=True)
        batch.next_logits()
        layer = batch._cache.layers[0] if batch._cache else None
        assert layer is not None
        assert layer._keys is not None

        def places() -> tuple[int, int]:
            return batch._tokens.data_ptr(), layer._keys.data_ptr()

        before = places()
        for token in range(10):
            batch.append([token])
            batch.next_logits()
            assert places() == before
    assert batch._tokens.tolist() == [[1, 2, 3, *range(10)]]


@each_sampling
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@each_encoding
@each_family
def test_neither_a_cache_nor_a_batch_changes_a_text(
    family: str, encoding: str, norm_position: str, sampling: SamplingParams
) -> None:
    """For prompts shorter than the context, equal to it and longer."""
    model = model_of(family, encoding, norm_position)
    lengths = (4, 1, CONTEXT) if family != "decoder" else (4, 1, 3 * CONTEXT, CONTEXT)
    all_given = given_to(family, *("0A9b"[row] * length for row, length in enumerate(lengths)))
    together = texts_of(model, **all_given, sampling=sampling)
    assert texts_of(model, **all_given, sampling=sampling, use_cache=False) == together
    for row, text in enumerate(together):
        alone = {key: values[row : row + 1] for key, values in all_given.items()}
        assert texts_of(model, **alone, sampling=sampling, seeds=[row]) == [text]
    assert len(set("".join(together))) > 5  # a model that repeats itself would show nothing


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, CONTEXT + 3), min_size=1, max_size=5),
    window=st.integers(1, CONTEXT),
    family=st.sampled_from(FAMILIES),
    encoding=st.sampled_from(sorted(POSITIONAL_ENCODINGS)),
)
def test_texts_of_any_lengths_and_windows_are_generated_like_each_alone(
    lengths: list[int], window: int, family: str, encoding: str
) -> None:
    model = model_of(family, encoding)
    if family != "decoder":
        lengths = [min(length, CONTEXT) for length in lengths]
    all_given = given_to(family, *(chr(ord("A") + row) * length for row, length in enumerate(lengths)))
    together = texts_of(model, **all_given, window=window, max_new_tokens=6)
    for row, text in enumerate(together):
        alone = {key: values[row : row + 1] for key, values in all_given.items()}
        assert texts_of(model, **alone, window=window, max_new_tokens=6, use_cache=False) == [text]


@pytest.mark.parametrize("prompt_length", [1, CONTEXT, 3 * CONTEXT])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_takes_the_likeliest_token_of_a_window_that_slides(prompt_length: int, use_cache: bool) -> None:
    model, expected = model_of("decoder"), [5] * prompt_length
    for _ in range(2 * CONTEXT):
        expected.append(int(logits_by_definition(model, expected, [], CONTEXT)[:N_SYMBOLS].argmax()))
    tokens = tokens_of(model, [[5] * prompt_length], max_new_tokens=2 * CONTEXT, use_cache=use_cache)
    assert [token for (token,) in tokens] == expected[prompt_length:]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_an_encoder_decoder_continues_from_the_last_token_of_its_prefix(conditioning: str) -> None:
    model, prefix = model_of(conditioning), [5, 9, 3]
    text = [3, 8, 8]  # the prompt follows that token
    for _ in range(5):
        text.append(int(logits_by_definition(model, text, prefix, CONTEXT)[:N_SYMBOLS].argmax()))
    assert [token for (token,) in tokens_of(model, [[8, 8]], prefixes=[prefix])] == text[3:]


@each_family
@pytest.mark.parametrize("encoding", WITHOUT_END)
def test_a_window_can_be_longer_than_the_context_if_positions_have_no_end(family: str, encoding: str) -> None:
    model, prefix = model_of(family, encoding), [5, 9, 3]
    expected = [3]
    for _ in range(CONTEXT + 8):
        expected.append(int(logits_by_definition(model, expected, prefix, 3 * CONTEXT)[:N_SYMBOLS].argmax()))
    prompts = {"prompts": [[3]]} if family == "decoder" else {"prompts": [[]], "prefixes": [prefix]}
    for use_cache in (True, False):
        options = {"window": 3 * CONTEXT, "max_new_tokens": CONTEXT + 8, "use_cache": use_cache}
        assert [token for (token,) in tokens_of(model, **prompts, **options)] == expected[1:]


@pytest.mark.parametrize("family", FAMILIES)
def test_within_the_window_a_step_reads_one_token(family: str) -> None:
    model, n_read = model_of(family, "rotary"), []
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    hook = stack.blocks[0].register_forward_hook(lambda block, inputs, output: n_read.append(output.size(1)))
    texts_of(model, **given_to(family, "ABBA"), max_new_tokens=6, window=6)
    hook.remove()
    # The prompt, or the last token of the prefix after its 4 states; from the seventh token on the window slides.
    expected = {
        "decoder": [4, 1, 1, 6, 6, 6],
        "hidden_cache": [4 + 1, 1, 1, 1, 1, 1],
        "cross_attention": [1, 1, 1, 1, 1, 1],
    }
    assert n_read == expected[family]


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    model, sampling = model_of("decoder"), SamplingParams(temperature=0.8)
    first = text_of(model, sampling, seed=1)
    assert len(first) == 2 * CONTEXT
    assert text_of(model, sampling, seed=1) == first
    assert text_of(model, sampling, seed=2) != first


def test_generation_does_not_use_the_global_generator() -> None:
    before = torch.get_rng_state()
    text_of(model_of("decoder"), SamplingParams())
    assert torch.equal(torch.get_rng_state(), before)


def test_text_is_yielded_while_it_is_generated() -> None:
    endless = generate_text(
        model_of("decoder"), TOKENIZER, "A", max_new_tokens=10**12, sampling=GREEDY, seed=0, stop=["never there"]
    )
    assert len(list(islice(endless, 3))) == 3


def test_the_given_text_is_yielded_before_the_model_reads_it() -> None:
    model = build(EncoderDecoder, conditioning="hidden_cache")
    model.register_forward_pre_hook(lambda *_: pytest.fail("read"))
    model.decoder.blocks[0].register_forward_pre_hook(lambda *_: pytest.fail("read"))
    pieces = generate_text(model, TOKENIZER, "C", prefix="AB", max_new_tokens=1, sampling=GREEDY, seed=0)
    assert next(pieces) == "ABC"


def test_ids_of_a_padded_vocabulary_are_never_drawn() -> None:
    model = build(GPT, tie_weights=False)
    with torch.no_grad():
        model.output.weight[N_SYMBOLS:] *= 20  # the likeliest of all, whenever one of the four logits is positive
    assert max(tokens_of(model, [[1]], max_new_tokens=40, n_symbols=TINY.vocab_size)) >= [N_SYMBOLS]
    for sampling in (
        GREEDY,
        SamplingParams(),
        SamplingParams(top_k=60),
        SamplingParams(top_p=0.99),
        SamplingParams(min_p=1e-6),
    ):
        assert max(tokens_of(model, [[1]], max_new_tokens=40, sampling=sampling)) < [N_SYMBOLS]


def test_an_empty_batch_gives_no_texts() -> None:
    assert texts_of(model_of("decoder"), prompts=[]) == []


def test_top_k_of_one_is_greedy() -> None:
    assert text_of(model_of("decoder"), SamplingParams(top_k=1)) == text_of(model_of("decoder"), GREEDY)


def test_draws_follow_the_probabilities() -> None:
    n_draws = 1000
    model = build(GPT, tie_weights=False)
    with torch.no_grad():
        model.output.weight *= 0.2  # so that more than one token is likely
    options = {"max_new_tokens": 1, "sampling": SamplingParams(temperature=0.7), "seeds": range(n_draws)}
    ((*drawn,),) = tokens_of(model, [[1, 2]] * n_draws, **options)
    expected = (logits_by_definition(model, [1, 2], [], CONTEXT)[:N_SYMBOLS] / 0.7).softmax(dim=0)
    observed = torch.tensor(drawn).bincount(minlength=N_SYMBOLS) / n_draws
    # A frequency has a standard error below 0.016.
    assert (observed - expected).abs().max() < 0.07
    assert expected.max() < 0.9


def test_a_text_continues_after_the_last_word_of_the_prompt() -> None:
    tokenizer = WordTokenizer(["a", "b", ","])
    n_symbols = tokenizer.vocab_size
    prompt = tokenizer.encode("a, b").tolist()
    for family, start in (("decoder", {"prompt": "a, b"}), ("hidden_cache", {"prompt": "", "prefix": "a, b"})):
        model = model_of(family)
        pieces = generate_text(model, tokenizer, **start, max_new_tokens=30, sampling=SamplingParams(), seed=0)
        prompts = {"prompts": [prompt]} if family == "decoder" else {"prompts": [[]], "prefixes": [prompt]}
        tokens = tokens_of(model, **prompts, max_new_tokens=30, sampling=SamplingParams(), n_symbols=n_symbols)
        assert "".join(pieces) == tokenizer.decode(prompt + [token for (token,) in tokens])


def test_each_row_yields_characters_of_several_tokens_as_a_whole() -> None:
    model = build(GPT, vocab_size=256)
    pieces = generate(
        model, ByteTokenizer(), ["é", "€€"], max_new_tokens=40, sampling=SamplingParams(temperature=3.0), seeds=[1, 2]
    )
    for row, text in enumerate(pieces):
        prompt = [*"é€€".encode()][2 * row : 2 + 6 * row]
        tokens = tokens_of(
            model, [prompt], max_new_tokens=40, sampling=SamplingParams(temperature=3.0), seeds=[row + 1], n_symbols=256
        )
        assert "".join(text) == bytes([*prompt, *(token for (token,) in tokens)]).decode(errors="replace")


def test_generation_ends_before_a_stop_string() -> None:
    text = text_of(model_of("decoder"), SamplingParams(), seed=3)
    stop = text[10:13]
    assert text_of(model_of("decoder"), SamplingParams(), seed=3, stop=[stop]) == text[: text.index(stop)]


@each_family
def test_each_row_ends_by_its_own_stop_string(family: str) -> None:
    model, all_given = model_of(family), given_to(family, "ABBA", "CD", "E")
    whole = texts_of(model, **all_given, sampling=SamplingParams())
    prefixes = all_given.get("prefixes", ["", "", ""])
    starts = [prefix + prompt for prefix, prompt in zip(prefixes, all_given["prompts"], strict=True)]
    new = [text.removeprefix(start) for text, start in zip(whole, starts, strict=True)]
    stop = [new[0][3:6], new[1][20:23]]
    expected = [start + "".join(until_stop([text], stop)) for text, start in zip(new, starts, strict=True)]
    assert texts_of(model, **all_given, sampling=SamplingParams(), stop=stop) == expected
    assert len({len(text) for text in expected}) == 3


def test_a_stop_string_in_the_prompt_ends_nothing() -> None:
    assert len(text_of(model_of("decoder"), stop=["ABBA"])) > 0


def test_a_batch_is_generated_no_further_than_its_longest_text() -> None:
    model, n_steps = build(GPT), []
    model.final_norm.register_forward_hook(lambda *_: n_steps.append(1))
    first, second = generate(
        model,
        TOKENIZER,
        ["A", "B"],
        max_new_tokens=1000,
        sampling=SamplingParams(),
        seeds=[1, 2],
        stop=list("aeiouAEIOU"),
    )
    n_chosen = [len("".join(pieces)) for pieces in (first, second)]  # the prompt's character stands for the stop
    assert len(n_steps) == max(n_chosen) < 1000


@pytest.mark.parametrize(
    ("family", "request_", "message"),
    [
        ("decoder", {"prompt": ""}, "prompt='' gives no tokens"),
        ("decoder", {"prompt": "A", "prefix": "B"}, "prefix='B' is for an encoder-decoder"),
        ("decoder", {"prompt": "A", "window": 17}, "window=17 is longer than the 16 positions"),
        ("decoder", {"prompt": "A", "window": 0}, "window=0 must be 1 or more"),
        ("hidden_cache", {"prompt": "A"}, "continues a prefix, and there is none"),
        ("hidden_cache", {"prompt": "A", "prefix": ""}, "prefix='' gives no tokens"),
        ("cross_attention", {"prompt": "", "prefix": "A", "window": 17}, "window=17 is longer than the 16"),
    ],
)
def test_an_unsuitable_prompt_is_refused_before_the_first_piece(
    family: str, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(FolioError, match=message):
        generate_text(model_of(family), TOKENIZER, **request_, max_new_tokens=1, sampling=GREEDY, seed=0)


def test_one_bad_prompt_refuses_the_batch() -> None:
    with pytest.raises(FolioError, match="prompt='' gives no tokens"):
        texts_of(model_of("decoder"), prompts=["A", ""])


@each_encoding
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_of_a_long_prefix_the_encoder_reads_as_much_as_the_window(encoding: str, conditioning: str) -> None:
    model = model_of(conditioning, encoding)
    prefixes = [("ABBA" * CONTEXT)[:n] for n in (CONTEXT + 3, 2)]
    texts = texts_of(model, prompts=["", ""], prefixes=prefixes)
    shorter = texts_of(model, prompts=["", ""], prefixes=[prefixes[0][3:], prefixes[1]])
    assert [text.removeprefix(prefix) for text, prefix in zip(texts, prefixes, strict=True)] == [
        shorter[0].removeprefix(prefixes[0][3:]),
        shorter[1].removeprefix(prefixes[1]),
    ]


@pytest.mark.parametrize("encoding", WITHOUT_END)
def test_a_longer_window_shows_the_encoder_more_of_the_prefix(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = model_of("hidden_cache", encoding), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda prefix, *rest: (read.append(prefix.tolist()), encode(prefix, *rest))[1])
    prefix = [*range(CONTEXT + 9)]
    for window in (None, CONTEXT + 2):
        tokens_of(model, [[]], prefixes=[prefix], window=window)
    assert read == [[prefix[-CONTEXT:]], [prefix[-CONTEXT - 2 :]]]


@st.composite
def texts_in_pieces(draw: st.DrawFn) -> list[str]:
    return draw(st.lists(st.text("ab", max_size=5), max_size=8))


stops = st.text("ab", min_size=1, max_size=4)


@given(pieces=texts_in_pieces(), stop=stops)
def test_text_ends_before_its_first_stop_string_however_it_is_cut(pieces: list[str], stop: str) -> None:
    assert "".join(until_stop(pieces, [stop])) == "".join(pieces).split(stop)[0]


@given(pieces=texts_in_pieces(), stop=st.lists(stops, max_size=3))
def test_several_stop_strings_do_not_depend_on_how_the_text_is_cut(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    assert "".join(until_stop(pieces, stop)) == "".join(until_stop(text, stop)) == "".join(until_stop([text], stop))


def test_text_is_held_back_only_while_it_could_start_a_stop_string() -> None:
    def pieces() -> Iterator[str]:
        yield "one "
        yield "<en"
        raise AssertionError("asked for more before passing on what was certain")

    assert next(until_stop(pieces(), ["<end>"])) == "one "
