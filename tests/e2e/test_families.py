"""Encoders and encoder-decoders train, evaluate and repeat as decoders do."""

import json
import math
import random
from collections.abc import Callable

import pytest
from workspace import FAMILIES, TINY, Run, Workspace

# Long enough that lines have different numbers of targets, which the weights of a batch account for.
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
    """The workspace of `runs`."""
    return make_workspace()


@pytest.fixture(scope="module")
def runs(family: str, home: Workspace) -> Runs:
    """Runs by seed and micro-batch size."""
    choices = ("seed=1,2", "training.micro_batch_size=null,4")
    home.must("train.py", "-m", *TINY, *FAMILIES[family], *SIZE, *choices)
    runs = [Run(folder) for folder in home.runs()]
    return {(run.config["seed"], run.config["training"]["micro_batch_size"]): run for run in runs}


def test_every_validation_metric_is_logged_and_stored(family: str, runs: Runs) -> None:
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
        assert (at_10 == at_20) == (name in UNIGRAM), "only a baseline does not depend on training"
    assert ("train/bits_per_byte" in run.events().Tags()["scalars"]) == (family != "masked_lm")


def test_evaluation_gives_exactly_what_training_logged(family: str, home: Workspace, runs: Runs) -> None:
    run = runs[1, 4]
    measured = json.loads(home.must("scripts/evaluate.py", str(run.folder), "--checkpoint", "last", "--json"))
    assert measured["step"] == 20
    assert {name: measured.get(name) for name in MEASURED[family]} == {
        name: run.metrics[f"val/{name}"] for name in MEASURED[family]
    }
    assert measured.keys() == {"checkpoint", "step", "split", *MEASURED[family]}


def test_a_seed_gives_the_same_bits_in_another_process(family: str, runs: Runs, workspace: Workspace) -> None:
    again = workspace.train(*TINY, *FAMILIES[family], *SIZE, "seed=2", "deterministic=true")
    assert again.equals(runs[2, None])
    assert not again.equals(runs[1, None])
    for name in MEASURED[family]:
        assert again.metrics[f"val/{name}"] == runs[2, None].metrics[f"val/{name}"]


@pytest.mark.parametrize("tag", ["train/loss_nats", "train/accuracy", "train/gradient_norm", "val/loss_nats"])
def test_accumulation_gives_the_curves_of_the_whole_batch(tag: str, family: str, runs: Runs) -> None:
    whole, parts = (dict(runs[1, micro_batch].curve(tag)) for micro_batch in (None, 4))
    assert parts == pytest.approx(whole, rel=1e-4)
    assert runs[1, 4].metrics["n_tokens_seen"] == runs[1, None].metrics["n_tokens_seen"]


def test_the_summary_predicts_how_many_tokens_are_read(family: str, runs: Runs) -> None:
    """The prediction is a mean, because lines and prefixes differ in length."""
    run = runs[1, None]
    summary = json.loads((run.folder / "preflight.json").read_text())
    assert summary["objective"] == run.config["objective"]["name"]
    predicted = summary["tokens_per_step"] * summary["steps"]
    assert run.metrics["n_tokens_seen"] == pytest.approx(predicted, rel=0.1)
    assert summary["epochs"] == pytest.approx(predicted / summary["train_tokens"], rel=1e-2)


def test_the_log_ends_with_the_results_and_their_baselines(family: str, runs: Runs) -> None:
    run = runs[2, None]
    log = (run.folder / "train.log").read_text()
    templates = {"masked_lm": "unigram accuracy {:.4f}", "prefix_lm": "shuffled prefix  {:.6f} nats"}
    metrics = {"masked_lm": "unigram_accuracy", "prefix_lm": "shuffled_prefix_loss_nats"}
    objective = run.config["objective"]["name"]
    assert templates[objective].format(run.metrics[f"val/{metrics[objective]}"]) in log
    assert f"validation loss  {run.metrics['val/loss_nats']:.6f} nats" in log
    assert ("bits per byte" in log) == (objective == "prefix_lm")


def test_a_text_without_the_letters_of_the_sample_prompt_still_trains(family: str, workspace: Workspace) -> None:
    (workspace.folder / "tiny.txt").write_text("über allen gipfeln ist ruh,\nin allen wipfeln spürest du\n" * 40)
    chosen = [word for word in FAMILIES[family] if not word.startswith("callbacks.")]
    run = workspace.train(*TINY, *chosen, "training.max_steps=3")
    assert run.metrics["status"] == "finished"
    assert "## Step 3" in (run.folder / "samples.md").read_text()


def text_of_blocks() -> str:
    """Return blocks of 64 characters over four letters each: the text before tells which letters follow."""
    generator = random.Random(0)
    letters = (generator.sample("abcdefghijklmnopqrstuvwx", 4) for _ in range(1000))
    return "".join("".join(generator.choices(four, k=64)) for four in letters)


@pytest.mark.parametrize("conditioning", ["hidden_cache", "cross_attention"])
def test_an_encoder_decoder_predicts_better_from_the_right_prefix(conditioning: str, workspace: Workspace) -> None:
    """0.51 nats better with hidden_cache and 0.35 with cross_attention; a random guess costs ln 24 = 3.18."""
    (workspace.folder / "tiny.txt").write_text(text_of_blocks())
    size = ("model.context_length=16", "model.d_model=32", "objective.min_prefix_length=8")
    length = ("training.max_steps=200", "training.batch_size=32", "training.validate_every_steps=200")
    metrics = workspace.train(*TINY, *FAMILIES[conditioning], *size, *length, "logger=none").metrics
    assert metrics["val/loss_nats"] < 2.8
    assert metrics["val/shuffled_prefix_loss_nats"] - metrics["val/loss_nats"] > 0.15
