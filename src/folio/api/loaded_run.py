"""A trained model, as `folio.load` returns it. Imports torch, but no Lightning, and matplotlib only to draw."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from folio.config.run import RunConfig
from folio.data.token_file import bits_per_byte
from folio.data.tokenizers.base import Tokenizer
from folio.figures.inspection import attention_weights
from folio.figures.labeled_prompt import LabeledPrompt, label_prompt, token_labels
from folio.generation.generate import generate_text
from folio.generation.next_token import next_token_probabilities
from folio.generation.prompts import default_prompt
from folio.models import Model
from folio.models.sampling import SamplingParams
from folio.objectives.text_loss import text_losses
from folio.runs.checkpoints import LoadedCheckpoint
from folio.runtime.console import in_notebook
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TokenLoss(NamedTuple):
    """The loss of one token of a text."""

    token: str
    nats: float


class TextLoss(NamedTuple):
    """The loss of a model on a text."""

    nats: float
    """Mean over the predicted tokens."""
    bits_per_byte: float | None
    """As validation measures it, so that tokenizers can be compared: a first token without a prediction counts as an
    average one. None if the tokenizer does not reproduce the text."""
    n_tokens: int
    """Number of tokens that were predicted."""
    tokens: tuple[TokenLoss, ...] = ()
    """The loss of each predicted token, if asked for."""


class NextToken(NamedTuple):
    """A token that may come next."""

    token: str
    probability: float
    id: int


@dataclass(frozen=True, repr=False)
class Attention:
    """The attention of a model that reads a text."""

    weights: np.ndarray
    """(layers, heads, T, S) float32: how much each of T tokens attends to each of S; rows sum to 1."""
    prompt: LabeledPrompt
    title: str

    @property
    def tokens(self) -> list[str]:
        """The texts of the T tokens that attend."""
        return self.prompt.row_labels

    @property
    def attended_tokens(self) -> list[str]:
        """The texts of the S tokens that are attended to: the same ones, unless an encoder-decoder reads a prefix."""
        return self.prompt.column_labels

    def plot(self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> "Figure":
        """Return a figure with a map for each layer and head; at most twelve of each unless they are given."""
        from folio.figures.attention import attention_figure

        show_figures_in_notebook()
        return attention_figure(
            self.weights,
            self.tokens,
            self.attended_tokens,
            self.title,
            layers=layers,
            heads=heads,
            divider=self.prompt.divider,
        )

    def __repr__(self) -> str:
        n_layers, n_heads, *_ = self.weights.shape
        return f"Attention of {n_layers} layers and {n_heads} heads over {len(self.tokens)} tokens"


def show_figures_in_notebook() -> None:
    """Let a notebook show a figure that ends a cell. By itself it would show only those of pyplot."""
    if in_notebook():
        from IPython import get_ipython
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(get_ipython(), {"png"})


@dataclass(frozen=True, repr=False)
class LoadedRun:
    """A trained model with everything that belongs to it."""

    path: Path
    """Checkpoint file that the weights are from."""
    checkpoint: LoadedCheckpoint
    metrics: dict[str, Any]
    """The content of the run's metrics.json; for a checkpoint without a run folder, its validation metrics."""

    @property
    def model(self) -> Model:
        """The model, a plain PyTorch module, in eval mode."""
        return self.checkpoint.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with."""
        return self.checkpoint.tokenizer

    @property
    def config(self) -> RunConfig:
        """The config of the run: `config.optimizer.learning_rate`."""
        return self.checkpoint.config

    @property
    def step(self) -> int:
        """Optimizer step of the weights."""
        return self.checkpoint.step

    def generate(
        self,
        prompt: str | None = None,
        *,
        prefix: str | None = None,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        window: int | None = None,
    ) -> str:
        """Return a text that continues a prompt, as scripts/generate.py prints it; an encoder fills each [MASK].

        Args:
            prompt: the text to continue; a new line if not given.
            prefix: what an encoder-decoder reads and continues.
            max_new_tokens: number of tokens to add; an encoder adds none.
            temperature: below 1 likely tokens become likelier; 0 always takes the likeliest.
            top_k: draw only from the k likeliest tokens.
            top_p: draw only from the likeliest tokens that together reach this probability.
            min_p: draw only from tokens at least this many times as likely as the likeliest.
            repetition_penalty: above 1 tokens that the text already contains become less likely.
            seed: a seed always gives the same text; random if not given.
            stop: end before the first of these texts.
            window: number of tokens that the model sees; its context_length if not given.

        Raises: FolioError if this model cannot write from such a prompt.
        """
        if max_new_tokens < 1:
            raise FolioError(f"max_new_tokens={max_new_tokens} must be at least 1")
        sampling = SamplingParams(
            repetition_penalty=repetition_penalty, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
        )
        if prompt is None:
            family, samples = self.config.model.family, self.config.callbacks.samples
            prompt = default_prompt(family, self.tokenizer, samples.prompt)
        pieces = generate_text(
            self.model,
            self.tokenizer,
            prompt,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            stop=[stop] if isinstance(stop, str) else stop,
            window=window,
        )
        return "".join(pieces)

    def loss(self, text: str, *, prefix: str | None = None, per_token: bool = False) -> TextLoss:
        """Return the loss on a text, in nats per token and in bits per byte, and on request of each token.

        A text that is longer than the model's context is read as a validation split is. With a prefix, only the text
        counts: an encoder-decoder needs one, and a decoder reads it as the prompt of a completion, without the end of
        the document that training counts. An encoder has no loss for a text.

        Raises: FolioError if the model cannot measure this text.
        """
        ids, losses = text_losses(self.model, self.tokenizer, text, prefix)
        all_ids, unknown = self.tokenizer.encode_with_unknown(text)
        nats = losses.mean().item()
        bits = bits_per_byte(nats, len(all_ids), len(text.encode()), unknown.spelling_bits)
        tokens = zip(token_labels(self.tokenizer, ids), losses.tolist(), strict=True) if per_token else ()
        return TextLoss(
            nats,
            bits if bits < math.inf else None,
            len(ids),
            tuple(TokenLoss(*token) for token in tokens),
        )

    def attention(self, text: str, *, prefix: str | None = None) -> Attention:
        """Return what each token of a text attends to: at most context_length tokens, from the first on.

        Raises: FolioError if the model cannot read this text.
        """
        prompt = label_prompt(
            self.model.config, self.tokenizer, text, prefix, max_tokens=self.model.config.context_length
        )
        title = ", ".join(filter(None, (f"attention at step {self.step:,}", prompt.note)))
        return Attention(attention_weights(self.model, prompt), prompt, title)

    def next_tokens(self, text: str, k: int = 10, *, prefix: str | None = None) -> list[NextToken]:
        """Return the k likeliest tokens after a text, or at the [MASK] in it for an encoder, likeliest first.

        Raises: FolioError if the model cannot read this text.
        """
        if k < 1:
            raise FolioError(f"k={k} must be at least 1")
        probabilities = next_token_probabilities(self.model, self.tokenizer, text, prefix)
        values, ids = probabilities.topk(min(k, len(probabilities)))
        labels = token_labels(self.tokenizer, ids.tolist())
        return [NextToken(*token) for token in zip(labels, values.tolist(), ids.tolist(), strict=True)]

    def __repr__(self) -> str:
        model = f"{self.config.model.name}, {self.model.n_parameters:,} parameters"
        return f"LoadedRun {self.path}: {model}, step {self.step:,}"
