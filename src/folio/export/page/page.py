"""Put a page together: its data, its scripts and the weights of its models, and write it.

The page's Content-Security-Policy allows its own script and style, by their hashes, and a worker from a blob: nothing
can be requested, and markup that came with a run could not run. Text from runs is JSON in the page, and its script
shows it as text.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.bpe import END_OF_TEXT
from folio.data.tokenizers.byte_pairs import BytePairTokenizer
from folio.data.tokenizers.state import fingerprint_of
from folio.export.page.architecture import TOKENIZERS, Precision, page_shape
from folio.export.page.weights import PackedWeights
from folio.models import TransformerConfig
from folio.runtime.files import atomic_writer
from folio.runtime.version import VERSION
from folio.runtime.web_page import content_security_policy

PARTS = Path(__file__).parent

WORKER_SCRIPTS = ("model.js", "sampling.js", "tokenizers.js", "worker.js")
PAGE_SCRIPTS = (
    *("sampling.js", "dom.js", "source.js", "state.js", "drawing.js"),
    *("views/write.js", "views/read.js", "views/inside.js", "views/growth.js", "main.js"),
)

PIECE_BYTES = 24 * 2**20
"""Size of one piece of the weights in the page. Browsers limit the length of a string."""


@dataclass(frozen=True)
class PageModel:
    """A model in a page: one checkpoint of a run."""

    run: str
    """Name of the run, as a person reads it."""
    step: int
    config: TransformerConfig
    tokenizer: Tokenizer
    precision: Precision
    weights: PackedWeights
    n_parameters: int
    prompt: str
    """Text that the page begins with."""
    val: dict[str, float] = field(default_factory=dict)
    """Validation metrics that training logged for these weights."""
    rounding: dict[str, float] = field(default_factory=dict)
    """Validation loss in nats before and after rounding the weights; empty for fp32."""


def write_page(path: Path, models: Sequence[PageModel], now: datetime | None = None) -> int:
    """Write the page, complete or not at all, and return its size in bytes. Raises: OSError."""
    with atomic_writer(path) as file:
        for piece in page_pieces(models, now):
            file.write(piece)
        return file.tell()


def page_pieces(models: Sequence[PageModel], now: datetime | None = None) -> Iterator[bytes]:
    """Yield the page, piece by piece: the weights are too large to be joined to one text."""
    texts: dict[str, bytes] = {}
    """Text for the worker, by the id of its element in the page: ranks as they are, weights in base64."""
    tokenizers = {fingerprint_of(model.tokenizer): model.tokenizer for model in models}
    title = " and ".join(dict.fromkeys(model.run for model in models))
    data = {
        "version": VERSION,
        "written": f"{now or datetime.now():%Y-%m-%d %H:%M}",
        "tokenizers": [_tokenizer_data(tokenizer, texts) for tokenizer in tokenizers.values()],
        "models": [_model_data(model, list(tokenizers), index, texts) for index, model in enumerate(models)],
    }
    page = render_page(title, data, worker=join_scripts(WORKER_SCRIPTS), allowed="worker-src blob:")
    before, after = page.split("<!-- texts -->")
    yield before.encode()
    for name, text in texts.items():
        yield f'<script type="text/plain" id="{name}">'.encode()
        yield text if name.startswith("ranks") else base64.b64encode(text)
        yield b"</script>\n"
    yield after.encode()


def render_page(title: str, data: dict[str, Any], *, worker: str, allowed: str) -> str:
    """Return the page without weights. `allowed` is what its policy allows beside its own script and style."""
    environment = Environment(loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined)
    style, script = (PARTS / "style.css").read_text(encoding="utf-8"), join_scripts(PAGE_SCRIPTS)
    return environment.get_template("template.html").render(
        policy=content_security_policy(style, script, allowed),
        title=title,
        style=style,
        script=script,
        worker=worker,
        # No < in the data, so it cannot end its element.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that JSON can hold: a perplexity can be infinite."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def join_scripts(names: Sequence[str]) -> str:
    """Return the scripts as one, in which each can use what those before it declare."""
    return "\n".join((PARTS / "js" / name).read_text(encoding="utf-8") for name in names)


def _tokenizer_data(tokenizer: Tokenizer, texts: dict[str, bytes]) -> dict[str, Any]:
    """Return the state of a tokenizer for js/tokenizers.js; its ranks become one of the texts."""
    kind = {"kind": TOKENIZERS[tokenizer.name]}
    if not isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.state() | kind
    name = f"ranks-{len(texts)}"
    texts[name] = tokenizer.state()["rank_file"]
    end = tokenizer.end_of_text
    return kind | {
        "name": tokenizer.name,
        "ranks": name,
        "split": "cl100k" if tokenizer.name == "cl100k_base" else "gpt2",
        "vocab_size": tokenizer.vocab_size,
        "special": {} if end is None else {END_OF_TEXT: end},
    }


def _model_data(model: PageModel, tokenizers: list[str], index: int, texts: dict[str, bytes]) -> dict[str, Any]:
    """Return what the page is told of a model; its weights become some of the texts."""
    pieces = range(0, len(model.weights.data), PIECE_BYTES)
    names = [f"weights-{index}-{number}" for number, _ in enumerate(pieces)]
    for name, start in zip(names, pieces, strict=True):
        texts[name] = model.weights.data[start : start + PIECE_BYTES]
    return {
        "run": model.run,
        "step": model.step,
        "prompt": model.prompt,
        "n_parameters": model.n_parameters,
        "val": finite_metrics(model.val),
        "precision": model.precision,
        "rounding": model.rounding,
        "shape": page_shape(model.config),
        "tokenizer": tokenizers.index(fingerprint_of(model.tokenizer)),
        "weights": {"tensors": model.weights.tensors, "parts": names},
    }
