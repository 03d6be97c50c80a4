"""Write text with a trained model: python scripts/generate.py latest --prompt "ROMEO:" """

from folio.runtime.signals import exit_on_signals
from folio.runtime.startup import fast_imports

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import secrets
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from folio.cli.scripts import run_script
from folio.config.migrations import migrate_config
from folio.config.run import RunConfig
from folio.config.tokenizer import read_tokenizer_file
from folio.data.tokenizers.base import Tokenizer
from folio.generation.prompts import check_request, default_prompt, last_position
from folio.generation.sampling import Sampling
from folio.models import TransformerConfig
from folio.models.transformer_config import Family
from folio.runs.folders import find_checkpoint, read_config
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable

TEXTS_AT_ONCE = 32
"""So that any number of samples fits into memory."""


MOST_TOKENS, MOST_SAMPLES = 10_000_000, 1_000_000
"""What memory holds a place for before the first token is written."""


class Quantization(StrEnum):
    INT8 = "int8"


class Accelerator(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"
    MPS = "mps"


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="The text to continue, or with an encoder to fill at each [MASK]; may be given again."),
    ] = None,
    prefix: Annotated[
        list[str] | None, typer.Option(help="What an encoder-decoder reads and continues; may be given again.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to add; an encoder adds none.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1 bolder in the likely, 0 greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this mass only.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from tokens at least this many times as likely as the likeliest only.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 tokens that were there already become less likely.")
    ] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed writes the same text; random if not given.")] = None,
    num_samples: Annotated[int, typer.Option(help="How many texts of each prompt; their seeds count up.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given again.")] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="How many tokens to remember, the model's context_length if not given; each one past them costs a "
            "reading of them all. With any positional encoding but learned it may be longer than the context."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Read all anew for each token: slower.")] = False,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Round the weights: a quarter of the memory, and faster on a CPU.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Which one of a run folder: best, last or step=N.")] = "best",
    output_dir: Annotated[Path, typer.Option(help="Where 'latest' looks.")] = Path("outputs"),
    device: Annotated[Accelerator, typer.Option(help="Where it is written.")] = Accelerator.AUTO,
) -> None:
    """Continue a prompt, or a prefix, or fill the blanks of a text, as the family of the trained model has it.

    Needs nothing but the run folder or checkpoint. A single text is printed as it is made, several are made together.
    """
    sampling = Sampling(
        repetition_penalty=repetition_penalty,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    check_counts(max_new_tokens, num_samples, seed, stop or [])
    path = find_checkpoint(run, output_dir, checkpoint)
    beside, config = tokenizer_beside(path), config_beside(path)
    if beside is not None and config is not None:  # else all is checked once the checkpoint is read
        for start in starts(config.family, prompt, prefix):
            check_request(config, beside, *start, stop=stop or [], window=window, longest=last_position(config))

    with fast_imports():  # only now torch, whose import takes seconds
        from folio.distributed.devices import device_from_name
        from folio.generation.generate import generate
        from folio.models.cpu_linear import lay_out_by_input
        from folio.models.quantization import quantize_int8
        from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, device_from_name(device))
    if beside is not None and beside.state() != trained.tokenizer.state():
        raise FolioError(
            f"{tokenizer_file(path)} is not the tokenizer that {path} was trained with; move it away: the checkpoint "
            "has its own"
        )
    if quantize is None:
        lay_out_by_input(trained.model)
    else:
        try:
            quantize_int8(trained.model)
        except ValueError as error:
            raise FolioError(f"--quantize={quantize}: {error}") from None
    first_seed = secrets.randbelow(2**31) if seed is None else seed
    tasks = plan(starts(trained.model.config.family, prompt, prefix), num_samples, first_seed)
    on_terminal = sys.stdout.isatty()  # which obeys what a file or a pipe only holds
    for first in range(0, len(tasks), TEXTS_AT_ONCE):
        together = tasks[first : first + TEXTS_AT_ONCE]
        texts = generate(
            trained.model,
            trained.tokenizer,
            [task.start.prompt for task in together],
            prefixes=[task.start.prefix for task in together],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seeds=[task.seed for task in together],
            stop=stop or [],
            window=window,
            use_cache=not no_cache,
        )
        for task, pieces in zip(together, texts, strict=True):
            if task.heading:
                print(task.heading)
            for piece in pieces:
                print(printable(piece) if on_terminal else piece, end="", flush=True)
            print()


class Start(NamedTuple):
    """What a text begins with."""

    prompt: str
    prefix: str | None


class Task(NamedTuple):
    """One text to be written."""

    start: Start
    seed: int
    heading: str
    """Empty where it is the only one."""


def starts(family: Family, prompts: Sequence[str] | None, prefixes: Sequence[str] | None) -> list[Start]:
    """Each prefix with each prompt."""
    read: Sequence[str | None] = prefixes or [None]
    return [Start(prompt, prefix) for prefix in read for prompt in prompts or [default_prompt(family)]]


def plan(starts: Sequence[Start], n_samples: int, first_seed: int) -> list[Task]:
    """Each start as often as there are samples, with the same seeds as alone."""
    tasks = []
    for number, start in enumerate(starts, 1):
        for sample in range(n_samples):
            words = [f"prompt {number} of {len(starts)}"] if len(starts) > 1 else []
            words += [f"sample {sample + 1} of {n_samples}"] if n_samples > 1 else []
            heading = f"--- {', '.join(words)}, seed {first_seed + sample}" if words else ""
            tasks.append(Task(start, first_seed + sample, heading))
    return tasks


def check_counts(max_new_tokens: int, num_samples: int, seed: int | None, stop: list[str]) -> None:
    """Raises: FolioError."""
    for option, value, most in (
        ("--max-new-tokens", max_new_tokens, MOST_TOKENS),
        ("--num-samples", num_samples, MOST_SAMPLES),
    ):
        if not 1 <= value <= most:
            raise FolioError(f"{option}={value} must be at least 1 and at most {most}")
    if seed is not None and not 0 <= seed < 2**32:
        raise FolioError(f"--seed={seed} must be at least 0 and below 2**32")
    if "" in stop:
        raise FolioError("--stop='' would end every text before it begins; give some text")


def tokenizer_file(checkpoint: Path) -> Path:
    return checkpoint.parent.parent / "tokenizer.json"


def tokenizer_beside(checkpoint: Path) -> Tokenizer | None:
    """That of the run folder, to be had without torch. Raises: FolioError where it is damaged."""
    file = tokenizer_file(checkpoint)
    if not file.is_file():
        return None
    try:
        return read_tokenizer_file(file)
    except ValueError:  # of which FolioError is one
        raise FolioError(f"{file} is no tokenizer of this version; move it away: the checkpoint has its own") from None


def config_beside(checkpoint: Path) -> TransformerConfig | None:
    """The shape of the run's model, to be had without torch; None where no file tells it."""
    try:
        config = RunConfig.model_validate(migrate_config(read_config(checkpoint.parent.parent)))
        return config.transformer_config(config.model.vocab_size or 0)
    except ValueError:  # the checkpoint has its own, which counts
        return None


if __name__ == "__main__":
    run_script(main)
