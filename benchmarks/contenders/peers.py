"""Other people's GPT-2, with Folio's weights and in the loops of their users.

transformers is the user's to install, and nanoGPT's model.py is imported from the user's checkout: neither is a
dependency of Folio.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.protocol import Spec
from benchmarks.contenders.selection import transformers_path
from benchmarks.contenders.training_loops import Loop
from folio.config.optimizer import AdamConfig
from folio.config.run import RunConfig
from folio.data.prepared import PreparedData
from folio.models.gpt2_format import PREFIX, gpt2_config_json, weights_of
from folio.models.transformer_config import TransformerConfig
from folio.optim.optimizers import param_groups
from folio.runtime.errors import FolioError

LOG_EVERY_STEPS = 10
"""As nanoGPT's recipes print the loss, for which they wait for it."""


def import_transformers() -> ModuleType:
    """With the class of GPT-2, which it would otherwise load on first use."""
    sys.path.extend(transformers_path())
    transformers = importlib.import_module("transformers")
    assert transformers.GPT2LMHeadModel
    return transformers


def import_nanogpt(folder: str) -> ModuleType:
    """The model.py of a checkout, under a name that hides no other module."""
    path = Path(folder) / "model.py"
    found = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # its dataclass looks there
    found.loader.exec_module(module)
    for name in ("GPT", "GPTConfig"):
        if not hasattr(module, name):
            raise FolioError(f"{path} defines no {name}; give a checkout of nanoGPT")
    return module


def build_hugging_face(transformers: ModuleType, shape: TransformerConfig, weights: str | None) -> nn.Module:
    """GPT2LMHeadModel of this shape, with the weights of a file."""
    values = {key: value for key, value in gpt2_config_json(shape).items() if key != "architectures"}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values))
    if weights is not None:
        model.load_state_dict(to_gpt2_state(weights, shape, transposed=True))
    return model


def build_nanogpt(module: ModuleType, shape: TransformerConfig, weights: str | None) -> nn.Module:
    """nanoGPT's GPT of this shape, with the weights of a file."""
    config = module.GPTConfig(
        block_size=shape.context_length,
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
        dropout=shape.dropout,
        bias=shape.bias,
    )
    model: nn.Module = module.GPT(config)
    if weights is not None:
        model.load_state_dict(to_gpt2_state(weights, shape, transposed=False))
    return model


def to_gpt2_state(weights: str, shape: TransformerConfig, *, transposed: bool) -> dict[str, Tensor]:
    """Folio's state under GPT-2's names; `transposed` as GPT-2's own layers have it, which multiply from the right."""
    ours = torch.load(weights, weights_only=True, mmap=True)
    state = {}
    for weight in weights_of(shape):
        if weight.parameter not in ours:  # a bias that the model does without
            continue
        tensor = ours[weight.parameter]
        name = weight.name if weight.name == "lm_head.weight" else PREFIX + weight.name
        state[name] = tensor.T if transposed and weight.transposed else tensor
    if shape.tie_weights:
        state["lm_head.weight"] = ours["token_embedding.weight"]
    return state


class HuggingFaceLoop(Loop):
    """GPT2LMHeadModel with AdamW as transformers' Trainer sets it up: fused, and no decay of biases and norms."""

    def __init__(self, spec: Spec, config: RunConfig, data: PreparedData) -> None:
        super().__init__(spec, config, data)
        self.model = build_hugging_face(import_transformers(), self.shape, self.weights).to(self.torch_device)
        if config.trainer.compile:
            self.model.compile()
        adam = adam_of(config)
        self.optimizer = torch.optim.AdamW(
            param_groups(self.model, adam.weight_decay),
            lr=adam.learning_rate,
            betas=(adam.betas[0], adam.betas[1]),
            eps=adam.eps,
            fused=self.device.supports_fused_optimizer,
        )

    def step(self, number: int) -> Tensor:
        context, tokens = self.shape.context_length, self.data.train.tokens
        windows = np.stack([tokens[start : start + context + 1] for start in self.starts(number)]).astype(np.int64)
        window = torch.from_numpy(windows).to(self.torch_device)  # (B, T + 1)
        self.set_learning_rate(number)
        with self.device.autocast():
            # Its own loss would shift the targets by one more, so that the last token of a window had none.
            logits = self.logits(window[:, :-1]).float()
            loss = F.cross_entropy(logits.flatten(end_dim=1), window[:, 1:].flatten())
        self.update(loss)
        return loss.detach()

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


class NanoGPTLoop(Loop):
    """nanoGPT's model and optimizer, and in each step what its train.py does in one."""

    def __init__(self, spec: Spec, config: RunConfig, data: PreparedData) -> None:
        super().__init__(spec, config, data)
        assert spec.nanogpt is not None
        torch.manual_seed(config.seed)
        if self.torch_device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        model: Any = build_nanogpt(import_nanogpt(spec.nanogpt), self.shape, self.weights).to(self.torch_device)
        adam = adam_of(config)
        betas = (adam.betas[0], adam.betas[1])
        optimizer = model.configure_optimizers(adam.weight_decay, adam.learning_rate, betas, self.torch_device.type)
        self.model, self.optimizer = model, optimizer
        if config.trainer.compile:
            self.model.compile()
        self._batch = self._next_batch(0)

    def step(self, number: int) -> Tensor:
        self.set_learning_rate(number)
        tokens, targets = self._batch
        with self.device.autocast():
            _, loss = self.model(tokens, targets)
        self._batch = self._next_batch(number + 1)  # while a GPU is still busy
        self.update(loss)
        if number % LOG_EVERY_STEPS == 0:
            print(f"step {number}, loss {loss.item():.4f}")
        return loss.detach()

    def _next_batch(self, number: int) -> tuple[Tensor, Tensor]:
        """A window after the other, from a file that is mapped anew for each batch."""
        file = self.data.train
        tokens = np.memmap(file.path, dtype=file.info.dtype, mode="r")
        context, starts = self.shape.context_length, self.starts(number)

        def rows(shift: int) -> Tensor:
            return torch.stack(
                [torch.from_numpy(tokens[i + shift : i + shift + context].astype(np.int64)) for i in starts]
            )

        inputs, targets = rows(0), rows(1)
        if self.torch_device.type == "cuda":
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return inputs.to(self.torch_device, non_blocking=True), targets.to(self.torch_device, non_blocking=True)

    def logits(self, tokens: Tensor) -> Tensor:
        logits, _ = self.model(tokens, tokens)  # with targets it gives the logits of every position
        return logits


def adam_of(config: RunConfig) -> AdamConfig:
    """What the peers' optimizers are set up with. Raises: FolioError where the run has another."""
    if not isinstance(config.optimizer, AdamConfig) or config.optimizer.name != "adamw":
        raise FolioError(f"optimizer={config.optimizer.name}: the peers know adamw alone; use --peers bare")
    return config.optimizer
