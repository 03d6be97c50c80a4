"""The workloads that contenders are compared on. Imports no torch, so that a wrong name is answered at once.

Everything that affects a time is written out: a better default recipe must not change what is compared. The model is
GPT-2's with exact GELU, the only function that Folio, nanoGPT and Hugging Face's library all have.
"""

from dataclasses import dataclass

SAME_FUNCTION = (
    "positional_encoding=learned",
    "objective=causal_lm",
    "optimizer=adamw",
    "schedule=cosine",
    "logger=tensorboard",
    "trainer=cpu",
    "seed=1337",
    "model.family=decoder",
    "model.d_ff=null",
    "model.norm_position=pre",
    "model.norm=layer_norm",
    "model.activation=gelu",
    "model.qk_norm=false",
    "model.init=gpt2",
    "model.tie_weights=true",
    "model.bias=true",
    "model.dropout=0.0",
    "model.attention_dropout=null",
    "optimizer.learning_rate=6.0e-4",
    "optimizer.betas=[0.9,0.95]",
    "optimizer.eps=1.0e-8",
    "optimizer.weight_decay=0.1",
    "schedule.warmup_steps=100",
    "data.window_order=random",
    "training.micro_batch_size=null",
    "training.gradient_clip_norm=1.0",
    "training.log_every_steps=10",
    "training.checkpoint_every_steps=250",  # as in nanoGPT's recipes for characters, and in Folio's versions of them
    # No run ends or validates while its steps are timed.
    "training.max_steps=1000000",
    "training.validate_every_steps=1000000",
    "callbacks.samples.max_new_tokens=0",
)


@dataclass(frozen=True)
class Workload:
    """A model and a batch, as overrides of train.py, and how they are timed."""

    name: str
    size: tuple[str, ...]
    block_steps: int
    """Steps that a contender does in one turn: enough to time, few enough to alternate."""
    checkpoint_each_block: bool
    """Save a checkpoint in each block; otherwise once per measurement, because saving a large model takes as long as a
    step."""
    overhead_blocks: int = 0
    """Blocks in a round of the part `overhead`, which has to resolve one per cent; 0 if it is not measured."""
    on_gpu: bool = False

    @property
    def overrides(self) -> list[str]:
        return [*SAME_FUNCTION, *self.size]


def size_overrides(
    *, layers: int, heads: int, d_model: int, context: int, batch: int, tokenizer: str
) -> tuple[str, ...]:
    """Return a model and a batch as overrides of train.py."""
    return (
        f"tokenizer={tokenizer}",
        "model=nano",
        "model.name=benchmark",
        f"model.n_layers={layers}",
        f"model.n_heads={heads}",
        f"model.d_model={d_model}",
        f"model.context_length={context}",
        f"training.batch_size={batch}",
    )


GPT2_SMALL = size_overrides(layers=12, heads=12, d_model=768, context=1024, batch=16, tokenizer="gpt2")
ON_GPU = ("trainer=gpu", "trainer.precision=bf16-mixed")

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "a",
            size_overrides(layers=4, heads=4, d_model=128, context=64, batch=12, tokenizer="char"),
            block_steps=25,
            checkpoint_each_block=True,
            overhead_blocks=8,
        ),
        Workload(
            "b",
            size_overrides(layers=6, heads=6, d_model=384, context=256, batch=16, tokenizer="char"),
            block_steps=2,
            checkpoint_each_block=True,
            overhead_blocks=2,
        ),
        Workload(
            "c",
            size_overrides(layers=6, heads=8, d_model=512, context=128, batch=16, tokenizer="gpt2"),
            block_steps=1,
            checkpoint_each_block=False,
        ),
        Workload(
            "d",  # GPT-2 small
            size_overrides(layers=12, heads=12, d_model=768, context=256, batch=2, tokenizer="gpt2"),
            block_steps=1,
            checkpoint_each_block=False,
        ),
        Workload(
            "e",  # GPT-2 small, in bf16 and compiled
            (*GPT2_SMALL, *ON_GPU, "trainer.compile=true"),
            block_steps=20,
            checkpoint_each_block=False,
            overhead_blocks=3,
            on_gpu=True,
        ),
        Workload(
            "f",  # the same, not compiled
            (*GPT2_SMALL, *ON_GPU),
            block_steps=20,
            checkpoint_each_block=False,
            on_gpu=True,
        ),
    )
}

GENERATION = (
    *SAME_FUNCTION,
    *size_overrides(layers=12, heads=12, d_model=768, context=1024, batch=1, tokenizer="gpt2"),
)
"""GPT-2 small, for the part `generation`."""
