"""Hugging Face's and nanoGPT's GPT-2 with Folio's weights, in the training loops that their users write.

Neither is a dependency of Folio: the user installs transformers, and nanoGPT's model.py is imported from a checkout.
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

from benchmarks.contenders.protocol import WorkerSpec
from benchmarks.contenders.selection import transformers_path
from benchmarks.contenders.training_loops import TrainingLoop
from folio.config.optimizer import AdamConfig
from folio.config.run import RunConfig
from folio.data.prepared import PreparedData
from folio.models.formats.gpt2 import GPT2
from folio.models.transformer_config import TransformerConfig
from folio.optim.optimizers import param_groups
from folio.runtime.errors import FolioError

LOG_EVERY_STEPS = 10
"""Steps between printed losses in nanoGPT's recipes; printing waits for the device."""


def import_transformers() -> ModuleType:
    """Import transformers with its GPT-2, which it would otherwise load on first use."""
    sys.path.extend(transformers_path())
    transformers = importlib.import_module("transformers")
    assert transformers.GPT2LMHeadModel
    return transformers


def import_nanogpt(folder: str) -> ModuleType:
    """Import model.py of a checkout, under a name that hides no other module."""
    path = Path(folder) / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    for name in ("GPT", "GPTConfig"):
        if not hasattr(module, name):
            raise FolioError(f"{path} defines no {name}; give a checkout of nanoGPT")
    return module


def build_hugging_face(transformers: ModuleType, model_config: TransformerConfig, weights: str | None) -> nn.Module:
    """Build GPT2LMHeadModel with Folio's weights from a file."""
    values = {key: value for key, value in GPT2.write_config(model_config).items() if key != "architectures"}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values))
    if weights is not None:
        model.load_state_dict(read_as_gpt2(weights, model_config, transposed=True))
    return model


def build_nanogpt(module: ModuleType, model_config: TransformerConfig, weights: str | None) -> nn.Module:
    """Build nanoGPT's GPT with Folio's weights from a file."""
    config = module.GPTConfig(
        block_size=model_config.context_length,
        vocab_size=model_config.vocab_size,
        n_layer=model_config.n_layers,
        n_head=model_config.n_heads,
        n_embd=model_config.d_model,
        dropout=model_config.dropout,
        bias=model_config.bias,
    )
    model: nn.Module = module.GPT(config)
    if weights is not None:
        model.load_state_dict(read_as_gpt2(weights, model_config, transposed=False))
    return model


def read_as_gpt2(weights: str, model_config: TransformerConfig, *, transposed: bool) -> dict[str, Tensor]:
    """Read a Folio state dict under GPT-2's names.

    transposed: lay linear weights out as (inputs, outputs), as in GPT-2's own Conv1D layers.
    """
    state = torch.load(weights, weights_only=True, mmap=True)
    renamed = {}
    for weight in GPT2.weights(model_config):
        if weight.parameter not in state:  # a bias that the model does not have
            continue
        tensor = state[weight.parameter]
        renamed[GPT2.full_name(weight.name)] = tensor.T if transposed and weight.transposed else tensor
    if model_config.ties_weights:
        renamed["lm_head.weight"] = state["token_embedding.weight"]
    return renamed


class HuggingFaceLoop(TrainingLoop):
    """GPT2LMHeadModel with AdamW as transformers' Trainer sets it up: fused, no decay of biases and norms."""

    def __init__(self, spec: WorkerSpec, config: RunConfig, data: PreparedData) -> None:
        super().__init__(spec, config, data)
        model = build_hugging_face(import_transformers(), self.model_config, self.weights)
        self.model = model.to(self.torch_device)
        if config.trainer.compile:
            self.model.compile()
        adam = adam_config(config)
        self.optimizer = torch.optim.AdamW(
            param_groups(self.model, adam.weight_decay),
            lr=adam.learning_rate,
            betas=(adam.betas[0], adam.betas[1]),
            eps=adam.eps,
            fused=self.device.supports_fused_optimizer,
        )

    def step(self, number: int) -> Tensor:
        context, tokens = self.model_config.context_length, self.data.train.tokens
        windows = np.stack([tokens[start : start + context + 1] for start in self.starts(number).tolist()]).astype(
            np.int64
        )
        window = torch.from_numpy(windows).to(self.torch_device)  # (B, T + 1)
        self.set_learning_rate(number)
        with self.device.autocast():
            # The model's own loss would shift the targets once more, and the last token of a window would have none.
            logits = self.logits(window[:, :-1]).float()
            loss = F.cross_entropy(logits.flatten(end_dim=1), window[:, 1:].flatten())
        self.update(loss)
        return loss.detach()

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


class NanoGPTLoop(TrainingLoop):
    """nanoGPT's model and optimizer, and in each step what its train.py does."""

    def __init__(self, spec: WorkerSpec, config: RunConfig, data: PreparedData) -> None:
        super().__init__(spec, config, data)
        assert spec.nanogpt is not None
        torch.manual_seed(config.seed)
        if self.torch_device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        module = import_nanogpt(spec.nanogpt)
        model: Any = build_nanogpt(module, self.model_config, self.weights).to(self.torch_device)
        adam = adam_config(config)
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
        """Stack one slice per window, from a memory map that is opened again for each batch."""
        file = self.data.train
        tokens = np.memmap(file.path, dtype=file.info.dtype, mode="r")
        context, starts = self.model_config.context_length, self.starts(number).tolist()

        def rows(shift: int) -> Tensor:
            return torch.stack(
                [torch.from_numpy(tokens[i + shift : i + shift + context].astype(np.int64)) for i in starts]
            )

        inputs, targets = rows(0), rows(1)
        if self.torch_device.type == "cuda":
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return inputs.to(self.torch_device, non_blocking=True), targets.to(self.torch_device, non_blocking=True)

    def logits(self, tokens: Tensor) -> Tensor:
        logits, _ = self.model(tokens, tokens)  # only with targets does it give the logits of every position
        return logits


def adam_config(config: RunConfig) -> AdamConfig:
    """Return the settings for the peers' optimizers. Raises: FolioError if the run has another optimizer."""
    if not isinstance(config.optimizer, AdamConfig) or config.optimizer.name != "adamw":
        raise FolioError(f"optimizer={config.optimizer.name}: the peers support only adamw; use --peers bare")
    return config.optimizer
