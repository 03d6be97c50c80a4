"""Sides of the part `generation`: GPT-2 writes greedily, by whatever its owner offers for it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.contenders.peers import build_hugging_face, build_nanogpt, import_nanogpt, import_transformers
from benchmarks.contenders.protocol import Line, Spec
from benchmarks.contenders.training_loops import shape_of
from folio.config.run import RunConfig
from folio.generation.generate import generate_tokens
from folio.generation.sampling import Sampling
from folio.models import GPT
from folio.models.cpu_linear import lay_out_by_input
from folio.models.transformer_config import TransformerConfig
from folio.runtime.memory import peak_bytes, resident_bytes

PROMPT_TOKENS = 16
N_SHOWN = 16
"""New tokens that the sides have to agree on: later, two that are all but equally likely may fall differently."""

WEIGHT_STD = 0.08
"""Of weights drawn anew. With those of a new model, 0.02, a tied GPT-2 repeats its last token for ever, and any two
programs would agree."""


class Writer(ABC):
    """A model that continues prompts."""

    model: nn.Module

    @abstractmethod
    def write(self, prompts: Tensor, n_new: int) -> Tensor:
        """Prompts (B, P) -> the new tokens, (B, n_new)."""


class FolioWriter(Writer):
    """`generate_tokens`, which keeps keys and values. The side that is called folio draws the weights of all."""

    def __init__(self, shape: TransformerConfig, spec: Spec) -> None:
        assert spec.weights is not None
        self.ours = GPT(shape)
        if spec.side == "folio":
            draw_weights(self.ours)
            torch.save(self.ours.state_dict(), spec.weights)
        else:
            self.ours.load_state_dict(torch.load(spec.weights, weights_only=True, mmap=True))
        self.model = self.ours
        if spec.side != "folio_int8":
            lay_out_by_input(self.ours)  # as scripts/generate.py does

    def write(self, prompts: Tensor, n_new: int) -> Tensor:
        steps = generate_tokens(
            self.ours,
            prompts.tolist(),
            max_new_tokens=n_new,
            sampling=Sampling(temperature=0.0),
            seeds=range(len(prompts)),
            n_symbols=self.ours.config.vocab_size,
        )
        return torch.tensor(list(steps)).T


class Int8Writer(FolioWriter):
    def __init__(self, shape: TransformerConfig, spec: Spec) -> None:
        super().__init__(shape, spec)
        from folio.models.quantization import quantize_int8

        quantized = quantize_int8(self.ours.eval())
        assert isinstance(quantized, GPT)
        self.model = self.ours = quantized


class HuggingFaceWriter(Writer):
    def __init__(self, shape: TransformerConfig, spec: Spec) -> None:
        self.model = build_hugging_face(import_transformers(), shape, spec.weights)

    def write(self, prompts: Tensor, n_new: int) -> Tensor:
        written: Tensor = self.model.generate(  # type: ignore[operator]
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=n_new,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        return written[:, prompts.size(1) :]


class NanoGPTWriter(Writer):
    def __init__(self, shape: TransformerConfig, spec: Spec) -> None:
        assert spec.nanogpt is not None
        self.model = build_nanogpt(import_nanogpt(spec.nanogpt), shape, spec.weights)

    def write(self, prompts: Tensor, n_new: int) -> Tensor:
        # It always draws; from one candidate there is one draw.
        written: Tensor = self.model.generate(prompts, n_new, top_k=1)  # type: ignore[operator]
        return written[:, prompts.size(1) :]


WRITERS: dict[str, Callable[[TransformerConfig, Spec], Writer]] = {
    "folio": FolioWriter,
    "folio_int8": Int8Writer,
    "hf": HuggingFaceWriter,
    "nanogpt": NanoGPTWriter,
}


def serve_writer(spec: Spec, line: Line, rss_before: int) -> None:
    """Build the model and write as told, always after the same prompts."""
    shape = shape_of(RunConfig.model_validate(spec.config))
    writer = WRITERS[spec.side](shape, spec)
    writer.model.eval()
    line.answer(rss_before_bytes=rss_before, rss_ready_bytes=resident_bytes())
    while (command := line.next()) is not None:
        if command.do == "memory":
            line.answer(peak_bytes=peak_bytes())
            continue
        prompts = draw_prompts(shape.vocab_size, command.batch)
        started = time.perf_counter()
        written = writer.write(prompts, command.n)
        elapsed_s = time.perf_counter() - started
        assert written.shape == (command.batch, command.n)
        line.answer(elapsed_s=elapsed_s, tokens=written[0, :N_SHOWN].tolist())


def draw_weights(model: nn.Module) -> None:
    """Matrices so large that what comes next depends on what was read; norms and biases as they begin."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=WEIGHT_STD, generator=generator)


def draw_prompts(vocab_size: int, batch: int) -> Tensor:
    """(B, PROMPT_TOKENS); the first row is the same for every B."""
    return torch.stack(
        [
            torch.randint(vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(row))
            for row in range(batch)
        ]
    )
