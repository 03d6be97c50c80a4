"""The page of `scripts/export.py --format page` in a browser: its numbers are Folio's, every view does its job."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Window, window
from playwright.sync_api import Browser, expect

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.bpe import BPETokenizer
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.tiktoken_bpe import TiktokenTokenizer
from folio.data.tokenizers.word import WordTokenizer
from folio.export.page.architecture import ONLY_TRAINING, SUPPORTED, Precision
from folio.export.page.page import PageModel, write_page
from folio.export.page.weights import in_page_form, pack_weights
from folio.generation.filling import fill_masks
from folio.models import TransformerConfig, build_model
from folio.models.families import Model
from folio.models.rotary_scaling import RotaryScaling
from folio.models.sampling import SamplingParams
from folio.models.token_sampler import token_probabilities
from folio.objectives.text_loss import text_losses

SIZES: dict[str, Any] = {"vocab_size": 27, "context_length": 10, "n_layers": 2, "n_heads": 3, "d_model": 24}
LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz")
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]

OPTIONS: dict[str, list[Any]] = {
    # Values of each option besides the default.
    "positional_encoding": ["sinusoidal", "concatenated", "rotary", "alibi", "none"],
    "norm_position": ["post"],
    "norm": ["rms_norm"],
    "activation": ["gelu", "relu", "relu_squared", "swiglu"],
    "d_ff": [20],
    "positional_base": [100.0],
    "bias": [False],
    "attention_bias": [False],
    "output_bias": [True],
    "tie_weights": [False],
    "scale_embedding": [True, 1.7],
    "value_embeddings": [1],
    "final_norm": [False],
    "qk_norm": [True],
    "n_heads": [4],
    "d_head": [6],
    "n_kv_heads": [1],
    "norm_eps": [0.1],
    "attention_window": [3, "SL:4"],
    "logit_softcap": [2.0],
}
TOGETHER: list[dict[str, Any]] = [
    {"value_embeddings": 2, "n_layers": 5, "n_heads": 4, "n_kv_heads": 2, "positional_encoding": "rotary"},
    {"norm_position": "post", "final_norm": True, "bias": False, "norm": "rms_norm"},
    {"positional_encoding": "concatenated", "positional_width": 7, "activation": "swiglu", "n_heads": 2},
    {"positional_encoding": "rotary", "positional_base": 50.0, "qk_norm": True, "attention_bias": True, "bias": False},
    {"positional_encoding": "sinusoidal", "positional_base": 50.0, "scale_embedding": False, "d_ff": 20},
    {
        "positional_encoding": "rotary",
        "rotary_fraction": 0.25,
        "n_heads": 6,
        "d_head": 16,
        "n_kv_heads": 2,
        "norm_eps": 1e-3,
    },
    {
        "positional_encoding": "rotary",
        "rotary_scaling": RotaryScaling(name="yarn", factor=4.0, original_context_length=4),
    },
    {
        "positional_encoding": "rotary",
        "rotary_scaling": RotaryScaling(name="llama3", factor=8.0, original_context_length=40),
    },
    {"positional_encoding": "alibi", "attention_window": "SSL:2", "n_layers": 3, "n_heads": 4, "n_kv_heads": 2},
    {"parametrization": "mup", "mup_base_d_model": 12},
]


def shapes() -> list[dict[str, Any]]:
    """Return the options of a model for each value of each option, in both families, and some in company."""
    single = [{}, *({name: value} for name, values in OPTIONS.items() for value in values), *TOGETHER]
    return [{"family": family, **options} for family in ("decoder", "encoder") for options in single]


def lively(model: Model) -> Model:
    """Draw all parameters, so that every part of the model matters; norms stay near 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.eval().parameters():
            parameter.normal_(std=0.3, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model


def page_model(
    options: dict[str, Any], tokenizer: Tokenizer = LETTERS, precision: Precision = "fp32"
) -> tuple[Model, PageModel]:
    """Return a model, and the same for a page. Rounding changes both, unless the page has another form of the model."""
    model = lively(build_model(TransformerConfig(**SIZES | options)))
    shown = in_page_form(model)
    weights = pack_weights(shown, precision)
    described = PageModel("tiny", 0, shown.config, tokenizer, precision, weights, model.n_parameters, "abc")
    return model, described


def logits_of(model: Model, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([tokens]))[0].numpy()
    return logits


def call(opened: Window, name: str, **arguments: Any) -> Any:
    """Call the model of a page, as its views do. Parts that come on the way are collected."""
    return opened.page.evaluate(
        """async ([name, args]) => {
            const parts = [];
            const asList = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
            const plain = (value) => JSON.parse(JSON.stringify(value, asList));
            await source.opened;
            const result = await source.call(name, args, { onPart: (part) => parts.push(plain(part)) });
            return { result: plain(result ?? null), parts };
        }""",
        [name, arguments],
    )


@pytest.fixture(scope="module")
def page_of(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Open a page of some models: page_of(models). Each must have made no request and no error in the end."""
    opened: list[Any] = []

    def open_page(models: list[PageModel], fragment: str = "") -> Window:
        path = tmp_path_factory.mktemp("page") / "page.html"
        write_page(path, models)
        context = window(browser, path.as_uri() + fragment)
        opened.append((context, context.__enter__()))
        return opened[-1][1]

    yield open_page
    for context, shown in opened:
        context.__exit__(None, None, None)
        assert shown.errors == []
        assert shown.external_requests == []


def test_every_supported_option_has_folios_logits_in_a_browser(page_of: Any) -> None:
    tried = {name for options in shapes() for name in options} | SIZES.keys()
    assert tried == SUPPORTED.keys() - {*ONLY_TRAINING, "conditioning"}
    models = [page_model(options) for options in shapes()]
    opened = page_of([described for _, described in models])
    for index, (model, described) in enumerate(models):
        expected = logits_of(model, TOKENS)
        found = np.array(call(opened, "logits", model=index, ids=TOKENS)["result"]).reshape(expected.shape)
        assert np.abs(found - expected).max() < 1e-4, described.config
        assert expected.std() > 0.3, "the logits hardly depend on anything"


def test_the_name_of_a_run_stays_text(page_of: Any) -> None:
    name = "<img src=x onerror=alert(1)></title></script><script>alert(2)</script>"
    opened = page_of([replace(page_model({})[1], run=name, prompt="abc"), replace(page_model({})[1], run=name, step=1)])
    assert opened.page.locator("h1").text_content() == name
    assert opened.page.locator("#model option").first.text_content() == f"{name}, step 0"
    assert opened.page.locator("img").count() == 0


def test_two_runs_stand_side_by_side(page_of: Any) -> None:
    models = [
        replace(page_model({"qk_norm": norm})[1], run=f"run {norm}", step=step)
        for norm in (True, False)
        for step in (1, 2)
    ]
    page = page_of(models, "#view=growth&length=6").page
    expect(page.locator("#status")).to_have_text("All checkpoints have written.")
    shown = page.locator("#growth article:visible")
    assert shown.locator("h3").all_text_contents() == ["run True, step 2", "run False, step 2"]
    assert [shown.nth(index).locator(".token").count() for index in range(2)] == [9, 9]
    page.get_by_label("Checkpoint").press("ArrowLeft")
    assert shown.locator("h3").all_text_contents() == ["run True, step 1", "run False, step 1"]


def test_rounded_weights_are_the_ones_that_were_measured(page_of: Any) -> None:
    models = [page_model({"vocab_size": 27}, precision=precision) for precision in ("fp16", "int8")]
    opened = page_of([described for _, described in models])
    for index, (model, described) in enumerate(models):
        expected = logits_of(model, TOKENS)
        found = np.array(call(opened, "logits", model=index, ids=TOKENS)["result"]).reshape(expected.shape)
        assert np.abs(found - expected).max() < 1e-4, described.precision


TEXTS = [
    "To be, or not to be: that is the question.\n\n  'Tis nobler (in the mind) to suffer--o'er; don\u2019t “say”...",
    "naïve café \U0001f339\U0001f1e9\U0001f1ea 日本語 e\u0301 \u200d\ufeff \x85\x1c\u00a0\u3000\u2028 ½ Ⅷ ४२",
    "1234567 x² _a_\t\r\n\r\n  ",
    "   leading, trailing   \n \n\n   ",
    "I'LL we'Ve it's 'S '\u017f don'T '' 're",
]


def tokenizers(assets_dir: Path) -> list[Tokenizer]:
    ranked = [TiktokenTokenizer.create(name, assets_dir) for name in ("gpt2", "cl100k_base")]
    learned = BPETokenizer.from_text("".join(TEXTS) * 2, 300)
    char = CharTokenizer("".join(sorted(set("".join(TEXTS)))))
    return [
        char,
        ByteTokenizer(),
        WordTokenizer.from_text(TEXTS[0] + TEXTS[2], 24),
        WordTokenizer.from_text("".join(TEXTS)),
        learned,
        *ranked,
    ]


def test_tokenizers_give_folios_ids_and_text(page_of: Any, assets_dir: Path) -> None:
    known = tokenizers(assets_dir)
    sizes = {"n_layers": 1, "n_heads": 1, "d_model": 2, "positional_encoding": "none"}
    models = [page_model({**sizes, "vocab_size": tokenizer.vocab_size}, tokenizer) for tokenizer in known]
    opened = page_of([described for _, described in models])
    generator = np.random.default_rng(0)
    letters = sorted({*"".join(TEXTS)})
    texts = [*TEXTS, *("".join(generator.choice(letters, size=60)) for _ in range(30))]
    script = "([model, texts]) => Promise.all(texts.map((text) => source.tokenize({ model, text })))"
    for index, tokenizer in enumerate(known):
        for text, found in zip(texts, opened.page.evaluate(script, [index, texts]), strict=True):
            ids = tokenizer.encode(text).tolist()
            assert found["ids"] == ids, (tokenizer.name, text)
            pieces = list(tokenizer.decode_stream(iter(ids)))
            rest = pieces[len(ids) :]
            assert found["pieces"] == [*pieces[: len(ids) - 1], "".join([pieces[len(ids) - 1], *rest])]


def test_a_page_writes_what_folio_writes(page_of: Any) -> None:
    endless, described_endless = page_model({"positional_encoding": "rotary", "attention_window": 4})
    model, described = page_model({"positional_encoding": "rotary", "attention_window": "SL:4", "n_kv_heads": 1})
    encoder, filled = page_model({"family": "encoder"})
    opened = page_of([described_endless, filled, described])
    greedy = {"sampling": {"temperature": 0}, "seed": 1, "length": 20}
    # Greedy text, past the end of the context, where the text's window slides unless every layer has its own.
    for index, writer in ((0, endless), (2, model)):
        expected = writer.generate(torch.tensor([[0, 1, 2]]), 20, temperature=0.0)[0, 3:].tolist()
        written = call(opened, "complete", model=index, prompt="abc", **greedy)["parts"]
        assert [part["id"] for part in written[1:]] == expected
        assert "".join(written[-1]["pieces"]) == "abc" + LETTERS.decode(expected)
    # From a token that a person chose, with those before it kept.
    chosen = [*expected[:5], (expected[5] + 1) % 26]
    expected = model.generate(torch.tensor([[0, 1, 2, *chosen]]), 14, temperature=0.0)[0, 9:].tolist()
    continued = call(opened, "complete", model=2, prompt="abc", given=chosen, **{"from": 5}, **greedy)["parts"]
    assert [part["index"] for part in continued[1:]] == list(range(5, 20))
    assert [part["id"] for part in continued[1:]] == [chosen[5], *expected]
    # Blanks, from left to right.
    blanks = call(opened, "complete", model=1, prompt="ab[MASK]cd[MASK]", **greedy)["parts"]
    text = "".join(fill_masks(encoder, LETTERS, "ab[MASK]cd[MASK]", sampling=SamplingParams(temperature=0.0), seed=0))
    assert "".join(blanks[0]["pieces"]) == "ab[MASK]cd[MASK]"
    assert "".join(blanks[-1]["pieces"]) == text


def test_a_page_draws_with_folios_probabilities(page_of: Any) -> None:
    _, described = page_model({})
    opened = page_of([described])
    logits = torch.randn(1, 27, generator=torch.Generator().manual_seed(0))
    script = "([logits, options]) => Array.from(distribution(Float32Array.from(logits), 26, options))"
    names = {"temperature": "temperature", "topK": "top_k", "topP": "top_p"}
    for options in (
        {},
        {"temperature": 0.7},
        {"temperature": 1.3, "topK": 5},
        {"temperature": 0.9, "topP": 0.5},
        {"topK": 9, "topP": 0.6},
    ):
        sampling = SamplingParams(**{names[name]: value for name, value in options.items()})
        wanted = token_probabilities(logits[:, :26].double(), sampling)[0]
        found = opened.page.evaluate(script, [logits[0].tolist(), options])
        assert np.allclose(found, (wanted / wanted.sum()).numpy(), atol=1e-6), options
    # A seed gives the tokens their share: 20,000 draws are within five standard deviations of it.
    draws = opened.page.evaluate(
        "() => Array.from({ length: 20000 }, (_, i) => draw([0.5, 0, 0.3, 0.2], randomAt(7, i)))"
    )
    shares = np.bincount(draws, minlength=4) / len(draws)
    assert np.abs(shares - [0.5, 0, 0.3, 0.2]).max() < 5 * 0.5 / len(draws) ** 0.5


def test_a_page_reads_and_looks_inside_as_folio_does(page_of: Any) -> None:
    model, described = page_model({"positional_encoding": "alibi", "attention_window": "SL:4", "n_kv_heads": 1})
    encoder, masked = page_model({"family": "encoder", "norm_position": "post"})
    words = WordTokenizer.from_text("to be or not to be", 7)
    _, spelled = page_model({"vocab_size": words.vocab_size}, words)
    opened = page_of([described, masked, spelled])
    text = "thequalityofmercyisnotstrained"
    read = call(opened, "read", model=0, text=text)["result"]
    _, losses = text_losses(model, LETTERS, text)
    assert read["tokens"][0] is None
    assert np.allclose([token["loss"] for token in read["tokens"][1:]], losses.numpy(), atol=1e-4)
    assert read["nBytes"] == len(text)
    # An encoder predicts each token from all others.
    tokens = LETTERS.encode(text[:8]).tolist()
    read = call(opened, "read", model=1, text=text[:8])["result"]
    for position, token in enumerate(tokens):
        logits = torch.tensor(logits_of(encoder, [*tokens[:position], 26, *tokens[position + 1 :]])[position])
        assert read["tokens"][position]["loss"] == pytest.approx(-logits.log_softmax(0)[token].item(), abs=1e-4)
    # Unknown words cost what Folio counts for them.
    unknown = "to be or not perhaps"
    assert call(opened, "read", model=2, text=unknown)["result"]["unknownBits"] == pytest.approx(
        words.unknown(unknown).spelling_bits
    )
    for index, looked in enumerate((model, encoder)):
        answer = call(opened, "inspect", model=index, text=LETTERS.decode(tokens), nTokens=48)
        (seen,), lens = answer["parts"], answer["result"]["lens"]
        maps = looked.attention_maps(torch.tensor([tokens]))
        for found, layer in zip(seen["attention"], maps, strict=True):
            assert np.allclose(found["weights"], layer.weights[0].detach().flatten().numpy(), atol=1e-5)
        residuals = residual_stream(looked, tokens)
        for norms, row, residual in zip(seen["norms"], lens, residuals, strict=True):
            assert np.allclose(norms, residual.norm(dim=-1).numpy(), rtol=1e-4)
            probabilities = looked.output(looked.final_norm(residual)).softmax(-1)
            for top, expected in zip(row, probabilities[:, :26].max(-1).values.tolist(), strict=True):
                assert top[0]["probability"] == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def residual_stream(model: Model, tokens: list[int]) -> list[torch.Tensor]:
    """Return the output of the embedding and of each block, (T, D) each."""
    found = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0])) for block in model.blocks]
    hooks.append(model.blocks[-1].register_forward_hook(lambda _, inputs, output: found.append(output[0])))
    model(torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    return found
