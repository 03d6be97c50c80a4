"""Write text with a trained model: python scripts/generate.py latest --prompt "ROMEO:" """

from folio.runtime.startup import fast_imports, prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from folio.cli.options import Accelerator, Quantization
from folio.cli.scripts import run_script
from folio.config.run import RunConfig
from folio.config.tokenizer import read_tokenizer_file
from folio.data.tokenizers.base import Tokenizer
from folio.generation.prompts import check_request, default_prompt
from folio.models.sampling import SamplingParams
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError
from folio.runtime.streams import SafeStream, output_is_gone
from folio.runtime.terminal import printable

BATCH_SIZE = 32
"""Number of texts that are generated together, so that any number of samples fits into memory."""

MAX_NEW_TOKENS, MAX_SAMPLES = 10_000_000, 1_000_000
"""Limits, since memory for all of them is allocated before the first token is generated."""


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="The text to continue; for an encoder, the text to fill at each [MASK]. Can be repeated."),
    ] = None,
    prefix: Annotated[
        list[str] | None, typer.Option(help="What an encoder-decoder reads and continues. Can be repeated.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Number of tokens to add; an encoder adds none.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1 likely tokens become likelier; 0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw only from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw only from the likeliest tokens that together reach this probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw only from tokens at least this many times as likely as the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 tokens that the text already contains become less likely.")
    ] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int | None, typer.Option(help="A seed always gives the same text; random if not given.")] = None,
    num_samples: Annotated[int, typer.Option(help="Number of texts for each prompt, with consecutive seeds.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text. Can be repeated.")] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Number of tokens that the model sees, its context_length if not given. Past it, each new token costs "
            "a pass over all of them. It may be longer than the context, except with learned positions."
        ),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Read the whole text again for each token: slower.")
    ] = False,
    quantize: Annotated[
        Quantization | None,
        typer.Option(help="Round the weights to 8 bits: a quarter of the memory, and faster on a CPU."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint of a run folder: best, last, epoch=N or step=N.")
    ] = "best",
    output_dir: Annotated[Path, typer.Option(help="The folder in which 'latest' looks for runs.")] = Path("outputs"),
    device: Annotated[Accelerator, typer.Option(help="The device to run on.")] = Accelerator.AUTO,
) -> None:
    """Continue a prompt or a prefix, or fill the blanks of a text, depending on the family of the trained model.

    Only the run folder or the checkpoint is needed. A single text is printed while it is generated.
    """
    sampling = SamplingParams(
        repetition_penalty=repetition_penalty,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    check_counts(max_new_tokens, num_samples, seed, stop or [])
    path = find_checkpoint(run, output_dir, checkpoint)
    tokenizer, config = stored_tokenizer(path), config_beside(path)
    if tokenizer is not None and config is not None:  # otherwise `generate` checks, once the checkpoint is loaded
        model_config = config.transformer_config(config.model.vocab_size or 0)
        for request in requests(config, tokenizer, prompt, prefix):
            check_request(model_config, tokenizer, *request, stop=stop or [], window=window)

    with fast_imports():  # only now torch, whose import takes seconds
        from folio.distributed.devices import device_from_name
        from folio.generation.generate import generate
        from folio.generation.weights import prepare_weights
        from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, device_from_name(device))
    if tokenizer is not None and tokenizer.state() != trained.tokenizer.state():
        raise FolioError(
            f"{tokenizer_file(path)} is not the tokenizer that {path} was trained with; move it away: the checkpoint "
            "has its own"
        )
    prepare_weights(trained.model, quantize)
    first_seed = secrets.randbelow(2**31) if seed is None else seed
    samples = plan_samples(requests(trained.config, trained.tokenizer, prompt, prefix), num_samples, first_seed)
    for first in range(0, len(samples), BATCH_SIZE):
        batch = samples[first : first + BATCH_SIZE]
        texts = generate(
            trained.model,
            trained.tokenizer,
            [sample.request.prompt for sample in batch],
            prefixes=[sample.request.prefix for sample in batch],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seeds=[sample.seed for sample in batch],
            stop=stop or [],
            window=window,
            use_cache=not no_cache,
        )
        for sample, pieces in zip(batch, texts, strict=True):
            print_sample(sample.heading, pieces)


def print_sample(heading: str, pieces: Iterable[str]) -> None:
    """Print each piece of a text as soon as it is generated."""
    if heading:
        print(heading)
    for piece in pieces:
        write_generated(piece)
        if output_is_gone():
            raise SystemExit(1)
    print()


def write_generated(text: str) -> None:
    """Write text that a model made: into a file or a pipe as it is, on a terminal without what it would obey."""
    stream = sys.stdout
    if isinstance(stream, SafeStream) and not stream.isatty():
        stream.write_trusted(text)
    else:
        stream.write(printable(text))
    stream.flush()


class Request(NamedTuple):
    """The start of a text."""

    prompt: str
    prefix: str | None


class Sample(NamedTuple):
    """One text to be generated."""

    request: Request
    seed: int
    heading: str
    """Empty if there is only one sample."""


def requests(
    config: RunConfig, tokenizer: Tokenizer, prompts: Sequence[str] | None, prefixes: Sequence[str] | None
) -> list[Request]:
    """Combine each prefix with each prompt."""
    all_prefixes: Sequence[str | None] = prefixes or [None]
    all_prompts = prompts or [default_prompt(config.model.family, tokenizer, config.callbacks.samples.prompt)]
    return [Request(prompt, prefix) for prefix in all_prefixes for prompt in all_prompts]


def plan_samples(requests: Sequence[Request], n_samples: int, first_seed: int) -> list[Sample]:
    """Return n_samples for each request; each request gets the same seeds as it would alone."""
    samples = []
    for number, request in enumerate(requests, 1):
        for index in range(n_samples):
            parts = [f"prompt {number} of {len(requests)}"] if len(requests) > 1 else []
            parts += [f"sample {index + 1} of {n_samples}"] if n_samples > 1 else []
            heading = f"--- {', '.join(parts)}, seed {first_seed + index}" if parts else ""
            samples.append(Sample(request, first_seed + index, heading))
    return samples


def check_counts(max_new_tokens: int, num_samples: int, seed: int | None, stop: list[str]) -> None:
    """Raises: FolioError if a number is out of range, or a stop string is empty."""
    for option, value, largest in (
        ("--max-new-tokens", max_new_tokens, MAX_NEW_TOKENS),
        ("--num-samples", num_samples, MAX_SAMPLES),
    ):
        if not 1 <= value <= largest:
            raise FolioError(f"{option}={value} must be at least 1 and at most {largest}")
    if seed is not None and not 0 <= seed < 2**32:
        raise FolioError(f"--seed={seed} must be at least 0 and below 2**32")
    if "" in stop:
        raise FolioError("--stop='' would end every text before it begins; give some text")


def tokenizer_file(checkpoint: Path) -> Path:
    return checkpoint.parent.parent / "tokenizer.json"


def stored_tokenizer(checkpoint: Path) -> Tokenizer | None:
    """Read the tokenizer of the run folder, without torch; None if it has none. Raises: FolioError."""
    file = tokenizer_file(checkpoint)
    if not file.is_file():
        return None
    try:
        return read_tokenizer_file(file)
    except ValueError:  # FolioError is one
        raise FolioError(f"{file} is no tokenizer of this version; move it away: the checkpoint has its own") from None


if __name__ == "__main__":
    run_script(main)
