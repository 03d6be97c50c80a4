"""An encoder and an encoder-decoder are trained, measured and repeated as the decoder is."""

import json
import math
import random
from collections.abc import Callable

import pytest
from workspace import FAMILIES, TINY, Run, Workspace

# Long enough that lines are asked for different numbers of tokens, which is what the weights of a batch are for.
SIZE = ("model.context_length=48", "model.d_model=16", "training.log_every_steps=2", "training.validate_every_steps=10")
UNIGRAM = {"unigram_loss_nats", "unigram_accuracy"}
ALWAYS = {"loss_nats", "perplexity", "accuracy"}
MEASURED = {
    "masked_lm": ALWAYS | UNIGRAM,
    "hidden_cache": ALWAYS | {"bits_per_byte", "shuffled_prefix_loss_nats"},
    "cross_attention": ALWAYS | {"bits_per_byte", "shuffled_prefix_loss_nats"},
}

Runs = dict[tuple[int, int | None], Run]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture(scope="module")
def home(family: str, make_workspace: Callable[[], Workspace]) -> Workspace:
    """Where the runs of `runs` lie."""
    return make_workspace()


@pytest.fixture(scope="module")
def runs(family: str, home: Workspace) -> Runs:
    """By seed and micro batch."""
    choices = ("seed=1,2", "training.micro_batch_size=null,4")
    home.must("train.py", "-m", *TINY, *FAMILIES[family], *SIZE, *choices)
    runs = [Run(folder) for folder in home.runs()]
    return {(run.config["seed"], run.config["training"]["micro_batch_size"]): run for run in runs}


def test_every_figure_of_validation_is_a_curve_and_a_metric(family: str, runs: Runs) -> None:
    run = runs[1, None]
    metrics = {name.removeprefix("val/"): value for name, value in run.metrics.items() if name.startswith("val/")}
    assert metrics.pop("step") == 20
    assert metrics.keys() == MEASURED[family]
    assert all(map(math.isfinite, metrics.values())), metrics
    curves = {tag for tag in run.events().Tags()["scalars"] if tag.startswith("val/")}
    assert curves == {f"val/{name}" for name in MEASURED[family]}
    for name, value in metrics.items():
        (_, at_10), (step, at_20) = run.curve(f"val/{name}")
        assert step == 20
        assert at_20 == pytest.approx(value, rel=1e-6)  # TensorBoard keeps float32
        assert (at_10 == at_20) == (name in UNIGRAM), "a baseline is no matter of training, the rest is"
    assert ("train/bits_per_byte" in run.events().Tags()["scalars"]) == (family != "masked_lm")


def test_evaluation_gives_the_bits_that_training_logged(family: str, home: Workspace, runs: Runs) -> None:
    run = runs[1, 4]
    measured = json.loads(home.must("scripts/evaluate.py", str(run.folder), "--checkpoint", "last", "--json"))
    assert measured["step"] == 20
    assert {name: measured.get(name) for name in MEASURED[family]} == {
        name: run.metrics[f"val/{name}"] for name in MEASURED[family]
    }
    assert measured.keys() == {"checkpoint", "step", "split", *MEASURED[family]}


def test_one_seed_gives_the_same_bits_in_another_process(family: str, runs: Runs, workspace: Workspace) -> None:
    again = workspace.train(*TINY, *FAMILIES[family], *SIZE, "seed=2", "deterministic=true")
    assert again.equals(runs[2, None])
    assert not again.equals(runs[1, None])
    for name in MEASURED[family]:
        assert again.metrics[f"val/{name}"] == runs[2, None].metrics[f"val/{name}"]


@pytest.mark.parametrize("tag", ["train/loss_nats", "train/accuracy", "train/gradient_norm", "val/loss_nats"])
def test_accumulation_draws_the_curves_of_the_whole_batch(tag: str, family: str, runs: Runs) -> None:
    whole, parts = (dict(runs[1, micro_batch].curve(tag)) for micro_batch in (None, 4))
    assert parts == pytest.approx(whole, rel=1e-4)
    assert runs[1, 4].metrics["n_tokens_seen"] == runs[1, None].metrics["n_tokens_seen"]


def test_the_preflight_foretells_how_many_tokens_are_read(family: str, runs: Runs) -> None:
    """On average: lines, and prefixes, differ in length."""
    run = runs[1, None]
    summarize_run = json.loads((run.folder / "preflight.json").read_text())
    assert summarize_run["objective"] == run.config["objective"]["name"]
    foretold = summarize_run["tokens_per_step"] * summarize_run["steps"]
    assert run.metrics["n_tokens_seen"] == pytest.approx(foretold, rel=0.1)
    assert summarize_run["epochs"] == pytest.approx(foretold / summarize_run["train_tokens"], rel=1e-2)


def test_the_end_tells_what_was_reached_and_what_to_compare_it_with(family: str, runs: Runs) -> None:
    run = runs[2, None]
    log = (run.folder / "train.log").read_text()
    words = {"masked_lm": "unigram accuracy {:.4f}", "prefix_lm": "shuffled prefix  {:.6f} nats"}
    figures = {"masked_lm": "unigram_accuracy", "prefix_lm": "shuffled_prefix_loss_nats"}
    objective = run.config["objective"]["name"]
    assert words[objective].format(run.metrics[f"val/{figures[objective]}"]) in log
    assert f"validation loss  {run.metrics['val/loss_nats']:.6f} nats" in log
    assert ("bits per byte" in log) == (objective == "prefix_lm")


def test_a_text_without_the_letters_of_the_sample_prompt_still_trains(family: str, workspace: Workspace) -> None:
    (workspace.folder / "tiny.txt").write_text("über allen gipfeln ist ruh,\nin allen wipfeln spürest du\n" * 40)
    run = workspace.train(*TINY, *FAMILIES[family], "training.max_steps=3")
    assert run.metrics["status"] == "finished"
    assert "## Step 3" in (run.folder / "samples.md").read_text()


def text_of_blocks() -> str:
    """Blocks of 64 characters over four letters each: what was written before says which are to come."""
    generator = random.Random(0)
    letters = (generator.sample("abcdefghijklmnopqrstuvwx", 4) for _ in range(1000))
    return "".join("".join(generator.choices(four, k=64)) for four in letters)


@pytest.mark.parametrize("conditioning", ["hidden_cache", "cross_attention"])
def test_an_encoder_decoder_predicts_better_from_the_right_prefix(conditioning: str, workspace: Workspace) -> None:
    """By 0.51 nats with hidden_cache and 0.35 with cross_attention; a guess costs ln 24 = 3.18."""
    (workspace.folder / "tiny.txt").write_text(text_of_blocks())
    size = ("model.context_length=16", "model.d_model=32", "objective.min_prefix_length=8")
    length = ("training.max_steps=200", "training.batch_size=32", "training.validate_every_steps=200")
    metrics = workspace.train(*TINY, *FAMILIES[conditioning], *size, *length, "logger=none").metrics
    assert metrics["val/loss_nats"] < 2.8
    assert metrics["val/shuffled_prefix_loss_nats"] - metrics["val/loss_nats"] > 0.15
