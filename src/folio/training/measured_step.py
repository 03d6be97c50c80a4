"""Measure how long an optimizer step takes on this machine, without data and without a Trainer."""

import statistics
import time

import torch

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.distributed.devices import Device
from folio.models import TransformerConfig, build_model
from folio.objectives.losses import batch_loss
from folio.optim.optimizers import build_optimizer, set_learning_rate

N_WARMUP, N_STEPS = 2, 5


def measure_step(config: RunConfig, model_config: TransformerConfig, device: Device) -> float:
    """Return the seconds of an optimizer step of a decoder over random tokens: the median of a few."""
    torch.manual_seed(0)
    model = build_model(model_config).to(device.torch_device)
    optimizer = build_optimizer(model, config.optimizer, device.supports_fused_optimizer)
    shape = (config.micro_batch_size, model_config.context_length)
    tokens = torch.randint(model_config.vocab_size, shape, device=device.torch_device)
    batch = Batch(tokens, tokens, n_tokens=tokens.numel())
    clip_norm = config.training.gradient_clip_norm or float("inf")
    times = []
    for _ in range(N_WARMUP + N_STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        for _ in range(config.accumulate_grad_batches):
            with device.autocast():
                loss, _ = batch_loss(model, batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        set_learning_rate(optimizer, config.optimizer.learning_rate / 1000.0)
        optimizer.step()
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return statistics.median(times[N_WARMUP:])
