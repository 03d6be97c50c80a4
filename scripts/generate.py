"""Write text with a trained model: python scripts/generate.py latest --prompt "ROMEO:" """

import secrets
from pathlib import Path
from typing import Annotated

import typer

from folio.cli import one_line_errors
from folio.data.tokenizers import load_tokenizer, state_from_json
from folio.errors import FolioError
from folio.runs import Which, find_checkpoint
from folio.sampling import Sampling


@one_line_errors
def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "\n",
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1 bolder in the likely, 0 greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this mass only.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed writes the same text; random if not given.")] = None,
    num_samples: Annotated[int, typer.Option(help="How many texts; their seeds count up.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given again.")] = None,
    checkpoint: Annotated[Which, typer.Option(help="Which one of a run folder.")] = Which.BEST,
    output_dir: Annotated[Path, typer.Option(help="Where 'latest' looks.")] = Path("outputs"),
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
) -> None:
    """Continue a prompt with a trained model. Needs nothing but the run folder or checkpoint."""
    sampling = Sampling(temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p)
    check_counts(max_new_tokens, num_samples, seed, stop or [])
    path = find_checkpoint(run, output_dir, checkpoint)
    check_prompt(prompt, path)

    # Only now torch, whose import takes seconds.
    from folio.generation import generate_text
    from folio.training.checkpoint import load_trained
    from folio.training.devices import named_device

    trained = load_trained(path, named_device(device))
    first_seed = secrets.randbelow(2**31) if seed is None else seed
    for number in range(num_samples):
        if num_samples > 1:
            print(f"--- sample {number + 1} of {num_samples}, seed {first_seed + number}")
        print(prompt, end="", flush=True)
        for piece in generate_text(
            trained.model,
            trained.tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=first_seed + number,
            stop=stop or [],
        ):
            print(piece, end="", flush=True)
        print()


def check_counts(max_new_tokens: int, num_samples: int, seed: int | None, stop: list[str]) -> None:
    """Raises: FolioError."""
    if max_new_tokens < 1:
        raise FolioError(f"--max-new-tokens={max_new_tokens} must be 1 or more")
    if num_samples < 1:
        raise FolioError(f"--num-samples={num_samples} must be 1 or more")
    if seed is not None and not 0 <= seed < 2**32:
        raise FolioError(f"--seed={seed} must be at least 0 and below 2**32")
    if "" in stop:
        raise FolioError("--stop='' would end every text before it begins; give some text")


def check_prompt(prompt: str, checkpoint: Path) -> None:
    """Find out before torch is imported whether the tokenizer lacks characters of the prompt. Raises: FolioError."""
    if not prompt:
        raise FolioError("--prompt='' gives no tokens, and a model continues at least one; give some text")
    beside = checkpoint.parent.parent / "tokenizer.json"
    if beside.is_file():
        load_tokenizer(state_from_json(beside.read_bytes())).encode(prompt)


if __name__ == "__main__":
    typer.run(main)
