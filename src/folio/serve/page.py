"""The page of `scripts/export.py --format page` for models that are too large for a file: they stay in the server.

`PAGE_CALLS` answers what `ServerSource` of the page's js/source.js asks, with the results that js/worker.js describes.
"""

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from folio.config.section import Section
from folio.data.tokenizers.base import Tokenizer
from folio.export.page.architecture import page_shape
from folio.export.page.page import finite_metrics, render_page
from folio.figures.labeled_prompt import token_labels
from folio.models import GPT
from folio.models.decoding import DecodingBatch
from folio.models.sampling import SamplingParams
from folio.models.token_sampler import TokenSampler
from folio.runtime.version import VERSION
from folio.serve.errors import ApiError
from folio.serve.generation import score_prompt
from folio.serve.models import ServedModel, ServedModels
from folio.serve.requests import Body

N_TOP = 5
"""Number of likeliest tokens that the page lists."""

MAX_INSPECTED = 64
"""Tokens that the page may look inside at once: there is a weight for each pair of them, in each head."""

PRIVACY = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""Headers of the page; the rest of its policy is in the page."""

Json = dict[str, Any]
Steps = Iterator[Json | None]


def served_page(models: ServedModels) -> str:
    """Return the page."""
    described = [
        {
            "run": served.id,
            "step": served.step,
            "prompt": served.sample_prompt,
            "n_parameters": served.n_parameters,
            "val": finite_metrics(served.val),
            "rounding": {},
            "shape": page_shape(served.model.config),
        }
        for served in models
    ]
    title = ", ".join(served.id for served in models)
    data = {"served": True, "version": VERSION, "models": described}
    return render_page(title, data, worker="", allowed="connect-src 'self'")


class PageBody(Body):
    """The arguments of a call; `model` is an index."""

    model: Annotated[int, Field(ge=0)]  # type: ignore[assignment]  # in OpenAI's API it is a name


class TextCall(PageBody):
    """The arguments of `tokenize` and `read`."""

    text: str


class InspectCall(TextCall):
    """The arguments of `inspect`."""

    nTokens: Annotated[int, Field(ge=1, le=MAX_INSPECTED)]  # noqa: N815 (the page's name)


class Shaping(Section):
    """How the page shapes a distribution."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    topK: Annotated[int, Field(ge=1)] | None = None  # noqa: N815
    topP: Annotated[float, Field(gt=0, le=1)] | None = None  # noqa: N815


class CompleteCall(PageBody):
    """The arguments of `complete`: the first tokens are `given`, and the page knows those before `from` already."""

    prompt: str
    length: Annotated[int, Field(ge=1, le=4096)]
    sampling: Shaping = Shaping()
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    given: list[int] = Field(default=[])
    known: Annotated[int, Field(ge=0, alias="from")] = 0


def vocabulary(served: ServedModel, body: PageBody) -> Steps:
    yield {"result": token_labels(served.tokenizer, range(served.tokenizer.vocab_size))}


def tokenize(served: ServedModel, body: TextCall) -> Steps:
    (ids,) = served.encode_all([body.text])
    yield {"result": {"ids": ids, "pieces": pieces_of(served.tokenizer, ids)}}


@torch.inference_mode()
def complete(served: ServedModel, body: CompleteCall) -> Steps:
    """The text is that of `scripts/generate.py` with the seed, as long as no token is chosen by hand."""
    tokenizer, given = served.tokenizer, served.encode_all([body.given])[0]
    ids = served.encode_all([body.prompt])[0] + given[: body.known]
    yield {"part": {"ids": ids, "pieces": pieces_of(tokenizer, ids)}}
    sampling = SamplingParams(temperature=body.sampling.temperature, top_k=body.sampling.topK, top_p=body.sampling.topP)
    sampler = TokenSampler([ids], sampling=sampling, seeds=[body.seed], n_symbols=tokenizer.vocab_size)
    n_known = len(given[: body.known])
    for _ in range(n_known):  # so that the next token is drawn as if these had been
        sampler.sample(torch.zeros(1, tokenizer.vocab_size))
    window, n_new = served.context_length, max(0, body.length - n_known)
    batch = DecodingBatch(served.model, [ids], None, window, n_new=n_new, use_cache=True)
    for index in range(n_known, body.length):
        logits = batch.next_logits()
        (drawn,) = sampler.sample(logits)
        token = given[index] if index < len(given) else drawn
        ids.append(token)
        yield {
            "part": {
                "index": index,
                "position": len(ids) - 1,
                "id": token,
                "logits": floats(logits),
                "pieces": pieces_of(tokenizer, ids),
            }
        }
        batch.append([token])


def read(served: ServedModel, body: TextCall) -> Steps:
    (ids,) = served.encode_all([body.text])
    if len(ids) < 2:
        raise ApiError("The text has nothing to predict. Give at least two tokens.", param="text")
    tokens: list[Json | None] = [None]
    for scored in score_prompt(served.model, served.tokenizer, ids, N_TOP):
        for token in scored:
            if token.logprob is not None:
                tokens.append({"loss": -token.logprob, "top": [likely(id_, logprob) for id_, logprob in token.top]})
        yield {"part": {"done": len(tokens) / len(ids)}}
    unknown_bits = served.tokenizer.unknown(body.text).spelling_bits
    yield {
        "result": {
            "ids": ids,
            "pieces": pieces_of(served.tokenizer, ids),
            "tokens": tokens,
            "nBytes": len(body.text.encode()),
            "unknownBits": unknown_bits if unknown_bits < math.inf else None,  # JSON has no infinity
        }
    }


@torch.inference_mode()
def inspect(served: ServedModel, body: InspectCall) -> Steps:
    model, (all_ids,) = served.model, served.encode_all([body.text])
    ids = all_ids[: min(body.nTokens, served.context_length)]
    seen = look(model, ids)
    attention = [{"weights": floats(layer.weights), "unscaled": floats(layer.unscaled)} for layer in seen.layers]
    yield {
        "part": {
            "ids": ids,
            "pieces": pieces_of(served.tokenizer, ids),
            "nTokens": len(all_ids),
            "attention": attention,
            "norms": [residual.norm(dim=-1).tolist() for residual in seen.residuals],
            "positions": positions_of(model),
        }
    }
    lens = []
    for residual in seen.residuals:
        scores = model.output(model.finish(residual)).float().log_softmax(dim=-1)  # (T, V)
        best = scores[:, : served.tokenizer.vocab_size].topk(min(N_TOP, served.tokenizer.vocab_size))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        lens.append([[likely(*pair) for pair in zip(*row, strict=True)] for row in rows])
        yield None
    yield {"result": {"lens": lens}}


class PageCall(NamedTuple):
    """A call of the page: how its arguments are checked, and the steps that answer it."""

    body: type[PageBody]
    steps: Callable[[ServedModel, Any], Steps]


PAGE_CALLS = {
    "vocabulary": PageCall(PageBody, vocabulary),
    "tokenize": PageCall(TextCall, tokenize),
    "complete": PageCall(CompleteCall, complete),
    "read": PageCall(TextCall, read),
    "inspect": PageCall(InspectCall, inspect),
}


class LayerAttention(NamedTuple):
    """The attention of one layer, (H, T, T) each."""

    weights: Tensor
    unscaled: Tensor
    """The weights as they would be without the division of the scores by sqrt(K)."""


class Seen(NamedTuple):
    """The inside of a model while it reads a text."""

    layers: list[LayerAttention]
    residuals: list[Tensor]
    """The residual stream after the embedding and after each block, (T, D) each."""


def look(model: GPT, ids: Sequence[int]) -> Seen:
    """Read a text, and keep what passes by."""
    residuals: list[Tensor] = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda block, inputs: residuals.append(inputs[0][0]))]
    for block in model.blocks:
        hooks.append(block.register_forward_hook(lambda block, inputs, output: residuals.append(output[0])))
    try:
        maps = model.attention_maps(torch.tensor([list(ids)], device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    # weights are exp(score / sqrt(K) + bias) up to a factor in each row, and so give the bias of the encoding.
    missing = 1 - model.config.head_width**-0.5
    layers = [
        LayerAttention(layer.weights[0], (layer.weights[0].log() + missing * layer.scores[0]).softmax(dim=-1))
        for layer in maps
    ]
    return Seen(layers, residuals)


def positions_of(model: GPT, most: int = 64) -> list[Json] | None:
    """Return the first rows of the table of the positional encoding; None if it has none."""
    table = model.positional_encoding.table(min(most, model.config.context_length))
    return None if table is None else [floats(row) for row in table]


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the piece of the text that each id adds; the last has what is incomplete at the end."""
    pieces = list(tokenizer.decode_stream(ids))
    return [*pieces[: len(ids) - 1], "".join(pieces[len(ids) - 1 :])] if ids else []


def floats(tensor: Tensor) -> Json:
    """Return a tensor as the page reads it: the base64 of its numbers, as many bytes as they need."""
    data = tensor.detach().float().cpu().numpy().astype("<f4").tobytes()
    return {"float32": base64.b64encode(data).decode()}


def likely(token: int, logprob: float) -> Json:
    return {"id": token, "probability": float(torch.tensor(logprob).exp())}
