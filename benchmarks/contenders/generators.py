"""GPT-2 generating greedily, in Folio and in the peers, each by its own means, on the device of the config."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.contenders.peers import build_hugging_face, build_nanogpt, import_nanogpt, import_transformers
from benchmarks.contenders.protocol import Channel, WorkerSpec
from benchmarks.contenders.step_timer import gpu_peak_bytes, synchronize
from benchmarks.contenders.training_loops import model_config_of
from folio.config.run import RunConfig
from folio.distributed.devices import resolve_device
from folio.generation.generate import generate_tokens
from folio.models import GPT
from folio.models.cpu_linear import store_column_major
from folio.models.sampling import SamplingParams
from folio.models.transformer_config import TransformerConfig
from folio.runtime.memory import peak_bytes, resident_bytes

PROMPT_TOKENS = 16
N_COMPARED_TOKENS = 16
"""New tokens on which the contenders must agree. Later, rounding may decide between two almost equally likely ones."""

WEIGHT_STD = 0.08
"""Standard deviation of the weights. With a new model's 0.02, a tied GPT-2 repeats its last token forever, and any two
programs would agree."""


class TextGenerator(ABC):
    """A model that continues prompts."""

    model: nn.Module

    def prepare(self, device: torch.device) -> None:
        """Move the model to the device, for generating."""
        self.model.to(device).eval()

    @abstractmethod
    def generate(self, prompts: Tensor, n_new: int) -> Tensor:
        """Prompts (B, P) -> the new tokens, (B, n_new)."""


class FolioGenerator(TextGenerator):
    """`generate_tokens` with its cache of keys and values. The contender `folio` draws the weights that all use."""

    def __init__(self, model_config: TransformerConfig, spec: WorkerSpec) -> None:
        assert spec.weights is not None
        self.gpt = GPT(model_config)
        if spec.contender == "folio":
            draw_weights(self.gpt)
            torch.save(self.gpt.state_dict(), spec.weights)
        else:
            self.gpt.load_state_dict(torch.load(spec.weights, weights_only=True, mmap=True))
        self.model = self.gpt

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        store_column_major(self.gpt)  # as scripts/generate.py does

    def generate(self, prompts: Tensor, n_new: int) -> Tensor:
        steps = generate_tokens(
            self.gpt,
            prompts.tolist(),
            max_new_tokens=n_new,
            sampling=SamplingParams(temperature=0.0),
            seeds=range(len(prompts)),
            n_symbols=self.gpt.config.vocab_size,
        )
        return torch.tensor(list(steps)).T


class Int8Generator(FolioGenerator):
    """Folio with int8 weights."""

    def prepare(self, device: torch.device) -> None:
        from folio.models.quantization import quantize_int8

        self.gpt.to(device)
        quantized = quantize_int8(self.gpt.eval())
        assert isinstance(quantized, GPT)
        self.model = self.gpt = quantized


class HuggingFaceGenerator(TextGenerator):
    """GPT2LMHeadModel.generate with its cache."""

    def __init__(self, model_config: TransformerConfig, spec: WorkerSpec) -> None:
        self.model = build_hugging_face(import_transformers(), model_config, spec.weights)

    def generate(self, prompts: Tensor, n_new: int) -> Tensor:
        tokens: Tensor = self.model.generate(  # type: ignore[operator]
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=n_new,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        return tokens[:, prompts.size(1) :]


class NanoGPTGenerator(TextGenerator):
    """nanoGPT's generate, which has no cache."""

    def __init__(self, model_config: TransformerConfig, spec: WorkerSpec) -> None:
        assert spec.nanogpt is not None
        self.model = build_nanogpt(import_nanogpt(spec.nanogpt), model_config, spec.weights)

    def generate(self, prompts: Tensor, n_new: int) -> Tensor:
        # It always samples; from one candidate there is only one sample.
        tokens: Tensor = self.model.generate(prompts, n_new, top_k=1)  # type: ignore[operator]
        return tokens[:, prompts.size(1) :]


GENERATORS: dict[str, Callable[[TransformerConfig, WorkerSpec], TextGenerator]] = {
    "folio": FolioGenerator,
    "folio_int8": Int8Generator,
    "hf": HuggingFaceGenerator,
    "nanogpt": NanoGPTGenerator,
}


def serve_generator(spec: WorkerSpec, channel: Channel, rss_before: int) -> None:
    """Build the model and generate as asked, always from the same prompts."""
    config = RunConfig.model_validate(spec.config)
    model_config, device = model_config_of(config), resolve_device(config.trainer).torch_device
    generator = GENERATORS[spec.contender](model_config, spec)
    generator.prepare(device)
    channel.reply(rss_before_bytes=rss_before, rss_ready_bytes=resident_bytes())
    while (command := channel.receive()) is not None:
        if command.do == "memory":
            channel.reply(peak_bytes=peak_bytes(), gpu_peak_bytes=gpu_peak_bytes(device))
            continue
        prompts = draw_prompts(model_config.vocab_size, command.batch).to(device)
        started = time.perf_counter()
        tokens = generator.generate(prompts, command.n)
        synchronize(device)
        elapsed_s = time.perf_counter() - started
        assert tokens.shape == (command.batch, command.n)
        channel.reply(elapsed_s=elapsed_s, tokens=tokens[0, :N_COMPARED_TOKENS].tolist())


def draw_weights(model: nn.Module) -> None:
    """Draw matrices so large that the next token depends on what was read; keep norms and biases."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=WEIGHT_STD, generator=generator)


def draw_prompts(vocab_size: int, batch: int) -> Tensor:
    """Return (B, PROMPT_TOKENS) random tokens; the first row is the same for every B."""
    return torch.stack(
        [
            torch.randint(vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(row))
            for row in range(batch)
        ]
    )
