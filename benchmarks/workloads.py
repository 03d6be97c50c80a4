"""The works that sides are compared at. Imports no torch, so that a wrong name is answered at once.

Everything that decides a time is written out: a better default recipe must not change what is compared here. The
model is GPT-2's with exact GELU, the one function that Folio, nanoGPT and Hugging Face's library all have.
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
    "training.checkpoint_every_steps=250",  # nanoGPT's recipes over characters, and Folio's after them
    # Nobody's run ends, or validates, while a step is timed.
    "training.max_steps=1000000",
    "training.validate_every_steps=1000000",
    "callbacks.samples.max_new_tokens=0",
)


@dataclass(frozen=True)
class Work:
    """A model and a batch, in the words of train.py, and how they are timed."""

    name: str
    summary: str
    sizes: tuple[str, ...]
    block_steps: int
    """Steps that a side does before it is the next one's turn: long enough to time, short enough to alternate."""
    checkpoint_each_block: bool
    """Else one in the whole measurement, for a large model takes as long to save as to step."""
    overhead_blocks: int = 0
    """In one round of the part `overhead`, which has to tell a per cent; 0: it is not measured here."""
    on_gpu: bool = False

    @property
    def overrides(self) -> list[str]:
        return [*SAME_FUNCTION, *self.sizes]


def sizes(layers: int, heads: int, d_model: int, context: int, batch: int, tokenizer: str) -> tuple[str, ...]:
    """A model and a batch as overrides of train.py."""
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


ON_GPU = ("trainer=gpu", "trainer.precision=bf16-mixed", "trainer.compile=true")

WORKS = {
    work.name: work
    for work in (
        Work(
            "a",
            "4 layers, 4 heads, d_model 128, context 64, batch 12, 65 symbols",
            sizes(4, 4, 128, 64, 12, "char"),
            block_steps=25,
            checkpoint_each_block=True,
            overhead_blocks=8,
        ),
        Work(
            "b",
            "6 layers, 6 heads, d_model 384, context 256, batch 16, 65 symbols",
            sizes(6, 6, 384, 256, 16, "char"),
            block_steps=2,
            checkpoint_each_block=True,
            overhead_blocks=2,
        ),
        Work(
            "c",
            "6 layers, 8 heads, d_model 512, context 128, batch 16, 50,257 symbols",
            sizes(6, 8, 512, 128, 16, "gpt2"),
            block_steps=1,
            checkpoint_each_block=False,
        ),
        Work(
            "d",
            "GPT-2 small (12 layers, 12 heads, d_model 768, 50,257 symbols), context 256, batch 2",
            sizes(12, 12, 768, 256, 2, "gpt2"),
            block_steps=1,
            checkpoint_each_block=False,
        ),
        Work(
            "e",
            "GPT-2 small, context 1024, batch 16, bf16, compiled, on a GPU",
            (*sizes(12, 12, 768, 1024, 16, "gpt2"), *ON_GPU),
            block_steps=20,
            checkpoint_each_block=False,
            on_gpu=True,
        ),
    )
}

WRITING = (
    *SAME_FUNCTION,
    *sizes(12, 12, 768, 1024, 1, "gpt2"),
)
"""GPT-2 small, whose weights the part `generation` draws at random."""
