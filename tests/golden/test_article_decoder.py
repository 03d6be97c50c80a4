"""The decoder of `experiment=composer_gpt` is the article's, number for number: plain PyTorch computes the same."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from folio.config.run import RunConfig
from folio.distributed.cost_model import n_parameters
from folio.models import GPT, TransformerConfig
from folio.models.cpu_elementwise import Dropout

Compose = Callable[..., RunConfig]


class ArticleBlock(nn.Module):
    """norm(x + dropout(sublayer(x))), twice."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.mix = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.first_norm, self.second_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.expand, self.contract = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.first_norm(hidden + self.dropout(self.attend(hidden)))
        inner = self.dropout(F.gelu(self.expand(hidden)))
        return self.second_norm(hidden + self.dropout(self.contract(inner)))

    def attend(self, hidden: Tensor) -> Tensor:
        """Attention without dropout of its weights, one head after the other."""
        time = hidden.size(1)
        future = torch.ones(time, time).triu(1).bool()
        heads = []
        for q, k, v in zip(
            *(layer(hidden).chunk(self.n_heads, dim=-1) for layer in (self.query, self.key, self.value)), strict=True
        ):
            scores = (q @ k.transpose(1, 2) / math.sqrt(q.size(-1))).masked_fill(future, -math.inf)
            heads.append(scores.softmax(dim=-1) @ v)
        return self.mix(torch.cat(heads, dim=-1))


class ArticleGPT(nn.Module):
    """Token and position tables, post-norm blocks, a final norm, and an output layer of its own with a bias."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Parameter(torch.zeros(config.context_length, config.d_model))
        self.blocks = nn.ModuleList(
            ArticleBlock(config.d_model, config.n_heads, config.feed_forward_width) for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(self.tokens(tokens) + self.positions[: tokens.size(1)])
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))

    def pairs(self, model: GPT) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return each of the model's parameters with what corresponds to it here, except the fused projections."""
        found = [(model.token_embedding.weight, self.tokens.weight)]
        found.append((model.positional_encoding.embedding.weight, self.positions))
        modules = [(model.final_norm, self.norm), (model.output, self.head)]
        for theirs, ours in zip(model.blocks, self.blocks, strict=True):
            modules += [(theirs.attention_norm, ours.first_norm), (theirs.feed_forward_norm, ours.second_norm)]
            modules += [(theirs.feed_forward.in_projection, ours.expand)]
            modules += [(theirs.feed_forward.out_projection, ours.contract)]
            found.append((theirs.attention.out_projection.weight, ours.mix.weight))
        return found + [
            pair for theirs, ours in modules for pair in ((theirs.weight, ours.weight), (theirs.bias, ours.bias))
        ]

    def copy_weights(self, model: GPT) -> None:
        with torch.no_grad():
            for theirs, ours in self.pairs(model):
                ours.copy_(theirs)
            for block, mine in zip(model.blocks, self.blocks, strict=True):
                parts = block.attention.qkv_projection.weight.chunk(3)
                for part, layer in zip(parts, (mine.query, mine.key, mine.value), strict=True):
                    layer.weight.copy_(part)


def models_of(config: TransformerConfig) -> tuple[GPT, ArticleGPT]:
    """Return Folio's model and the independent one with the same random weights."""
    torch.manual_seed(0)
    model, reference = GPT(config).double(), ArticleGPT(config).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference.copy_weights(model)
    return model, reference


@pytest.fixture(params=["composer_gpt", "composer_debug"])
def config(request: pytest.FixtureRequest, compose: Compose) -> TransformerConfig:
    """Return the config of a recipe, with a vocabulary of 97 to save time."""
    return compose(f"experiment={request.param}").transformer_config(97)


@pytest.mark.parametrize(
    ("experiment", "sizes", "n"),
    [
        ("composer_gpt", (6, 8, 512, 512, 128, 64), 61_035_601),
        ("composer_debug", (1, 2, 4, 4, 8, 2), 452_473),
    ],
)
def test_sizes_and_number_of_parameters_are_the_articles(
    experiment: str, sizes: tuple[int, ...], n: int, compose: Compose
) -> None:
    config = compose(f"experiment={experiment}")
    model = config.transformer_config(50_257)
    found = (model.n_layers, model.n_heads, model.d_model, model.d_ff, model.context_length)
    assert (*found, config.training.batch_size) == sizes
    assert n_parameters(model) == n


def test_forward_pass_and_gradients_are_those_of_an_independent_model(config: TransformerConfig) -> None:
    model, reference = models_of(config)
    model.eval()
    reference.eval()
    tokens = torch.randint(97, (2, config.context_length), generator=torch.Generator().manual_seed(1))
    losses = []
    for one in (model, reference):
        losses.append(F.cross_entropy(one(tokens[:, :-1]).flatten(end_dim=1), tokens[:, 1:].flatten()))
        losses[-1].backward()
    torch.testing.assert_close(model(tokens), reference(tokens), rtol=0, atol=1e-6)
    for theirs, ours in reference.pairs(model):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=0, atol=1e-6)
    for block, mine in zip(model.blocks, reference.blocks, strict=True):
        parts = torch.cat([layer.weight.grad for layer in (mine.query, mine.key, mine.value)])
        torch.testing.assert_close(block.attention.qkv_projection.weight.grad, parts, rtol=0, atol=1e-6)
    n_compared = sum(theirs.numel() for theirs, _ in reference.pairs(model)) + config.n_layers * 3 * config.d_model**2
    assert n_compared == model.n_parameters


def test_dropout_acts_at_the_articles_places(config: TransformerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of dropping, triple: the outputs agree only if both models do it at the same places."""
    assert (config.dropout, config.attention_dropout_rate, config.feed_forward_dropout) == (0.1, 0.1, 0.1)
    model, reference = models_of(replace(config, attention_dropout=0.0))
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, hidden: 3 * hidden if self.training else hidden)
    monkeypatch.setattr(Dropout, "forward", nn.Dropout.forward)
    tokens = torch.randint(97, (2, config.context_length), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(tokens), reference(tokens), rtol=0, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(tokens), model.eval()(tokens))


def test_positions_start_at_zero_or_are_sinusoidal_without_a_factor(compose: Compose) -> None:
    model = GPT(compose("experiment=composer_debug").transformer_config(97))
    assert not model.positional_encoding.embedding.weight.any()
    config = compose("experiment=composer_debug", "positional_encoding=sinusoidal").transformer_config(97)
    model, tokens = GPT(config), torch.tensor([[5, 3]])
    table = torch.tensor([[0.0, 1.0, 0.0, 1.0], [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]])
    hidden = model.eval().embed(tokens, torch.arange(2))
    torch.testing.assert_close(hidden, model.token_embedding.weight[tokens] + table, rtol=0, atol=1e-6)
