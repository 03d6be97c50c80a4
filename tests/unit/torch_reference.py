"""The same models built from torch's own transformer layers, as an independent reference."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from folio.models.gpt import Transformer

NAMES = (
    ("cross_attention_norm", "norm2"),
    ("cross_attention.out_projection", "multihead_attn.out_proj"),
    ("cross_attention.", "multihead_attn."),
    ("attention.qkv_projection.", "self_attn.in_proj_"),
    ("attention.out_projection", "self_attn.out_proj"),
    ("feed_forward.in_projection", "linear1"),
    ("feed_forward.out_projection", "linear2"),
    ("attention_norm", "norm1"),
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class TorchStack(nn.Module):
    """A transformer with learned positions and layer norms; `symbols` (V, D) is the token embedding."""

    def __init__(self, stack: Transformer, symbols: nn.Parameter) -> None:
        super().__init__()
        config = stack.config
        assert (config.positional_encoding, config.norm) == ("learned", "layer_norm")
        self.symbols = symbols
        self.positions = nn.Parameter(stack.positional_encoding.embedding.weight.detach().clone())
        self.is_crossed = stack.blocks[0].cross_attention is not None
        make_layer = nn.TransformerDecoderLayer if self.is_crossed else nn.TransformerEncoderLayer
        self.layers = nn.ModuleList(
            make_layer(
                config.d_model,
                config.n_heads,
                config.feed_forward_width,
                dropout=0.0,
                activation=ACTIVATIONS[config.activation],
                batch_first=True,
                norm_first=config.norm_position == "pre",
                bias=config.bias,
                dtype=torch.float64,
            )
            for _ in range(config.n_layers)
        )
        for block, layer in zip(stack.blocks, self.layers, strict=True):
            layer.load_state_dict(self.in_torchs_names(block.state_dict()))
        self.norm: nn.Module = nn.Identity()
        if config.norm_position == "pre":
            self.norm = nn.LayerNorm(config.d_model, bias=config.bias, dtype=torch.float64)
            self.norm.load_state_dict(stack.final_norm.state_dict())

    def forward(
        self,
        tokens: Tensor,
        *,
        causal: bool,
        positions: Tensor | None = None,
        padding: Tensor | None = None,
        states: Tensor | None = None,
        states_padding: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> (B, T, D), at positions 0 .. T - 1 or the given ones; padding masks are True for padding."""
        time = tokens.size(1)
        future = ~torch.ones(time, time, dtype=torch.bool).tril() if causal else None
        hidden = self.symbols[tokens] + self.positions[torch.arange(time) if positions is None else positions]
        for layer in self.layers:
            if self.is_crossed:
                hidden = layer(hidden, states, tgt_mask=future, memory_key_padding_mask=states_padding)
            else:
                hidden = layer(hidden, future, src_key_padding_mask=padding)
        return self.norm(hidden)

    def in_torchs_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a block's tensors for torch's layer, which has one tensor for q, k and v of cross-attention."""
        renamed = {}
        for name, value in tensors.items():
            for ours, reference in (*NAMES, ("feed_forward_norm", "norm3" if self.is_crossed else "norm2")):
                name = name.replace(ours, reference)
            renamed[name] = value
        for kind in ("weight", "bias"):
            parts = [f"multihead_attn.{part}_projection.{kind}" for part in ("q", "kv")]
            if parts[0] in renamed:
                renamed[f"multihead_attn.in_proj_{kind}"] = torch.cat([renamed.pop(part) for part in parts])
        return renamed

    def assert_gradients_of(self, stack: Transformer) -> None:
        """Assert that every weight of the stack has the same gradient as here."""
        ours, reference = (
            {"positions": stack.positional_encoding.embedding.weight.grad},
            {"positions": self.positions.grad},
        )
        ours |= gradients_of(stack.final_norm, "norm")
        reference |= gradients_of(self.norm, "norm")
        for index, (block, layer) in enumerate(zip(stack.blocks, self.layers, strict=True)):
            ours |= {f"{index}.{name}": value for name, value in self.in_torchs_names(gradients_of(block)).items()}
            reference |= gradients_of(layer, str(index))
        assert None not in ours.values()
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(stack.token_embedding.weight.grad, self.symbols.grad, rtol=1e-9, atol=1e-9)


def gradients_of(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Return the gradients by the names of the parameters."""
    start = f"{prefix}." if prefix else ""
    return {start + name: parameter.grad for name, parameter in module.named_parameters()}


def symbols_of(stack: Transformer) -> nn.Parameter:
    """Return a copy of the token embedding with its own gradient."""
    return nn.Parameter(stack.token_embedding.weight.detach().clone())
