"""Runs whose results are committed, so that a test notices when a code change changes a result.

After an intended change, `python tests/e2e/pins.py` records them again.
"""

import hashlib
import json
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from workspace import ROOT, Run, Workspace

GOLDEN = ROOT / "tests" / "golden"
TRACES = GOLDEN / "traces"
OLD_RUN = GOLDEN / "run_format_3"
"""A run of Folio 0.1.0 in checkpoint format 3, killed between steps 20 and 40."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""Sums in float32 depend on the number of threads."""

COMMON = (
    "tokenizer=char",
    "trainer=cpu",
    "logger=csv",
    "seed=7",
    "model.dropout=0.1",
    "training.max_steps=30",
    "training.log_every_steps=1",
    "training.validate_every_steps=15",
    "training.checkpoint_every_steps=30",
    "schedule.warmup_steps=3",
    "callbacks.samples.max_new_tokens=0",
)
ENCODER = ("model.family=encoder", "objective=masked_lm")
ENCODER_DECODER = ("model.family=encoder_decoder", "objective=prefix_lm")

RECIPES: dict[str, tuple[str, ...]] = {
    "decoder_debug": ("model=debug",),
    "decoder_nano": ("model=nano", "optimizer=muon", "positional_encoding=rotary", "model.qk_norm=true"),
    "encoder_debug": ("model=debug", *ENCODER),
    "encoder_nano": ("model=nano", *ENCODER, "model.norm_position=post"),
    "encoder_decoder_debug": ("model=debug", *ENCODER_DECODER, "conditioning=cross_attention"),
    "encoder_decoder_nano": ("model=nano", *ENCODER_DECODER, "conditioning=hidden_cache"),
}
"""Each family in two sizes; together they cover both optimizers and both norm positions."""

OLD_RUN_RECIPE = (
    *COMMON,
    "model=debug",
    "training.max_steps=40",
    "training.validate_every_steps=10",
    "training.checkpoint_every_steps=20",
    "callbacks.checkpoint.keep_every_steps=20",
)


def trace_of(run: Run) -> dict[str, Any]:
    """Return what is committed of a run: its losses at each step, and the names and shapes of its weights."""
    return {
        "train/loss_nats": [value for _, value in run.curve("train/loss_nats", "csv")],
        "train/gradient_norm": [value for _, value in run.curve("train/gradient_norm", "csv")],
        "val/loss_nats": [value for _, value in run.curve("val/loss_nats", "csv")],
        "state_dict": {name: list(tensor.shape) for name, tensor in run.weights().items()},
    }


def digest(weights: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of the names and bits of a state dict."""
    sha256 = hashlib.sha256()
    for name in sorted(weights):
        sha256.update(name.encode())
        sha256.update(weights[name].contiguous().numpy().tobytes())
    return sha256.hexdigest()


def describe_arithmetic() -> str:
    """Describe what the last bits of a float32 product depend on: the build of torch, and its kernels for this CPU."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {model or platform.processor()}"


def results_of(run: Run) -> dict[str, Any]:
    """Return what is committed of the final results of the old run."""
    metrics = run.metrics
    return {
        "weights_sha256": digest(run.weights()),
        "arithmetic": describe_arithmetic(),
        **{key: metrics[key] for key in ("val/loss_nats", "train/loss_nats", "step", "n_tokens_seen")},
    }


def copy_old_run(workspace: Workspace) -> Path:
    """Copy the old run into a workspace, where a test may resume it. Returns its folder."""
    folder = workspace.folder / "outputs" / "old"
    shutil.copytree(OLD_RUN / "run", folder)
    return folder


def record() -> None:
    """Record everything that is committed, but the old run only if it is missing, because only an old Folio can."""
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name), ENVIRONMENT)
        (Path(name) / "data").symlink_to(ROOT / "data", target_is_directory=True)
        TRACES.mkdir(parents=True, exist_ok=True)
        for recipe, overrides in RECIPES.items():
            run = workspace.train(*COMMON, *overrides)
            (TRACES / f"{recipe}.json").write_text(json.dumps(trace_of(run), indent=1) + "\n")
        if not OLD_RUN.exists():
            run = workspace.train(*OLD_RUN_RECIPE)
            OLD_RUN.mkdir()
            (OLD_RUN / "expected.json").write_text(json.dumps(results_of(run), indent=2) + "\n")
            # As if the run had been killed before step 40.
            checkpoints = run.folder / "checkpoints"
            for file in ("last.ckpt", "step=40.ckpt", "best.ckpt"):
                (checkpoints / file).unlink()
            (checkpoints / "step=20.ckpt").rename(checkpoints / "last.ckpt")
            (run.folder / "metrics.json").unlink()
            shutil.copytree(run.folder, OLD_RUN / "run")


if __name__ == "__main__":
    record()
