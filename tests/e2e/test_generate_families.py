"""An encoder fills blanks, an encoder-decoder continues a prefix, and each refuses options of the other."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from workspace import FAMILIES, TINY, Finished, Run, Workspace

GENERATE = "scripts/generate.py"

MISTAKES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # mistake: (the run, the arguments, words of the error message)
    "an encoder without a prompt": ("masked_lm", (), ("prompt=''", "has no [MASK]", "To be, or not to [MASK]")),
    "a prompt without a blank": ("masked_lm", ("--prompt", "ROMEO:"), ("prompt='ROMEO:'", "has no [MASK]")),
    "a prefix for an encoder": ("masked_lm", ("--prefix", "ROMEO:"), ("prefix='ROMEO:'", "is an encoder")),
    "a text longer than an encoder reads": (
        "masked_lm",
        ("--prompt", "JULIET: [MASK]"),
        ("9 tokens", "context_length=8", "shorten it by 1"),
    ),
    "a stop text for an encoder": ("masked_lm", ("--prompt", "[MASK]", "--stop", "R"), ("stop has no effect",)),
    "a character that an encoder lacks": ("masked_lm", ("--prompt", "[MASK]é"), ("'é' (U+00E9)",)),
    "an encoder-decoder without a prefix": ("hidden_cache", (), ("continues a prefix", '--prefix "ROMEO:"')),
    "a prompt instead of a prefix": ("hidden_cache", ("--prompt", "ROMEO:"), ("continues a prefix",)),
    "an empty prefix": ("hidden_cache", ("--prefix", ""), ("prefix=''", "gives no tokens")),
    "a window longer than learned positions": ("hidden_cache", ("--prefix", "R", "--window", "9"), ("window=9", "8")),
}


@pytest.fixture(scope="module")
def home(make_workspace: Callable[[], Workspace]) -> Workspace:
    return make_workspace()


@pytest.fixture(scope="module")
def runs(home: Workspace) -> dict[str, Run]:
    return {name: home.train(*TINY, *FAMILIES[name], f"name={name}") for name in ("masked_lm", "hidden_cache")}


def test_an_encoder_fills_the_blanks_and_keeps_the_rest(home: Workspace, runs: dict[str, Run]) -> None:
    command = (GENERATE, str(runs["masked_lm"].folder), "--prompt", "RO[MASK]E[MASK]", "--seed", "3")
    output = home.must(*command)
    assert re.fullmatch(r"RO.E.\n", output, re.DOTALL)
    assert home.must(*command) == output


def test_an_encoder_decoder_continues_its_prefix(home: Workspace, runs: dict[str, Run]) -> None:
    folder = str(runs["hidden_cache"].folder)
    command = (GENERATE, folder, "--prefix", "ROMEO:", "--seed", "3", "--max-new-tokens", "20")
    output = home.must(*command)
    assert output.startswith("ROMEO:")
    assert len(output) == len("ROMEO:") + 20 + len("\n")
    assert home.must(*command, "--no-cache") == output
    assert home.must(*command, "--prompt", " It", "--max-new-tokens", "1").startswith("ROMEO: It")


def test_each_prefix_is_continued_with_each_prompt(home: Workspace, runs: dict[str, Run]) -> None:
    options = ("--prefix", "ROMEO:", "--prefix", "JUL", "--prompt", "", "--prompt", "I")
    output = home.must(GENERATE, str(runs["hidden_cache"].folder), *options, "--seed", "1", "--max-new-tokens", "5")
    parts = re.split(r"--- prompt \d of 4, seed 1\n", output)
    assert parts[0] == ""
    starts = ["ROMEO:", "ROMEO:I", "JUL", "JULI"]
    assert [part[: len(start)] for part, start in zip(parts[1:], starts, strict=True)] == starts


@pytest.mark.parametrize("name", ["masked_lm", "hidden_cache"])
def test_samples_during_training_suit_the_family(name: str, runs: dict[str, Run]) -> None:
    samples = (runs[name].folder / "samples.md").read_text()
    assert samples.startswith("## Step 20\n\n    ROMEO:")
    assert "[MASK]" not in samples


@pytest.fixture(scope="module")
def results(
    home: Workspace, runs: dict[str, Run], forbid_imports: Callable[..., dict[str, str]]
) -> dict[str, Finished]:
    """Return the results of all mistakes, run in parallel and without torch."""

    def run_command(mistake: str) -> Finished:
        run, arguments, _ = MISTAKES[mistake]
        return home.run(GENERATE, str(runs[run].folder), *arguments, **forbid_imports("torch", "lightning"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(MISTAKES, pool.map(run_command, MISTAKES), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_generation_refuses(mistake: str, results: dict[str, Finished]) -> None:
    line = results[mistake].error_line()
    missing = [word for word in MISTAKES[mistake][2] if word not in line]
    assert not missing, line
    assert results[mistake].stdout == ""


def test_a_checkpoint_file_is_enough_and_a_prefix_longer_than_the_context_slides(
    home: Workspace, runs: dict[str, Run]
) -> None:
    alone = home.folder / "alone.ckpt"
    alone.write_bytes((runs["hidden_cache"].folder / "checkpoints" / "best.ckpt").read_bytes())
    texts = [home.must(GENERATE, "alone.ckpt", "--greedy", "--prefix", prefix) for prefix in ("ROMEO: It", "OMEO: It")]
    assert texts[0] == "R" + texts[1]


def test_a_sample_prompt_without_a_blank_is_refused_before_the_first_step(workspace: Workspace) -> None:
    overrides = (*TINY, *FAMILIES["masked_lm"][:2], "callbacks.samples.prompt=ROMEO")
    line = workspace.run("train.py", *overrides).error_line()
    assert line.startswith("error: callbacks.samples.prompt: ")
    assert "has no [MASK]" in line
