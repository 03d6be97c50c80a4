"""A run folder is all that evaluating and generating need."""

import json
import platform
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workspace import TINY, Run, Workspace

import folio

GENERATE, EVALUATE = "scripts/generate.py", "scripts/evaluate.py"


@pytest.fixture
def no_lightning(forbid_imports: Callable[..., dict[str, str]]) -> dict[str, str]:
    return forbid_imports("lightning", "pytorch_lightning", "tensorboard", "matplotlib")


@pytest.fixture(scope="module")
def two_checkpoints(make_workspace: Callable[[], Workspace]) -> tuple[Workspace, Run]:
    """A run that got worse after its best validation."""
    workspace = make_workspace()
    recipe = ("schedule=constant", "training.validate_every_steps=10", "training.max_steps=20", "model.dropout=0.1")
    # A rate that grows until the second validation: by then the loss is ten times that of the first, whatever the seed.
    recipe += ("schedule.warmup_steps=20", "optimizer=sgd", "optimizer.learning_rate=20")
    run = workspace.train(*TINY, *recipe, "callbacks.checkpoint.keep_every_steps=10")
    assert run.metrics["best/step"] == 10, "the test needs a run whose last step is not its best"
    return workspace, run


def test_evaluation_gives_the_exact_loss_that_training_logged_for_each_checkpoint(
    two_checkpoints: tuple[Workspace, Run], no_lightning: dict[str, str]
) -> None:
    workspace, run = two_checkpoints
    logged = {"best": run.metrics["best/val/loss_nats"], "last": run.metrics["val/loss_nats"]}
    assert logged["best"] < logged["last"]
    logged |= {"step=10": logged["best"], "step=20": logged["last"]}
    for name, loss in logged.items():
        command = (EVALUATE, str(run.folder), "--checkpoint", name, "--split", "val", "--json")
        measured = json.loads(workspace.must(*command, **no_lightning))
        assert measured["loss_nats"] == loss
        assert measured["step"] == {"best": 10, "step=10": 10, "last": 20, "step=20": 20}[name]
    assert measured.items() >= {key: run.metrics[f"val/{key}"] for key in ("perplexity", "accuracy")}.items()
    assert measured["bits_per_byte"] == run.metrics["val/bits_per_byte"]


def test_evaluation_says_that_it_is_the_same_and_leaves_the_run_as_it_is(home: Workspace, finished_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.folder.rglob("*")}
    said = home.must(EVALUATE, "latest")
    assert f"loss             {finished_run.metrics['val/loss_nats']:.6f} nats" in said
    assert said.endswith("nats: the same\n")
    assert {path: path.stat().st_mtime_ns for path in finished_run.folder.rglob("*")} == before


def test_a_test_split_is_measured_on_request_and_each_look_recorded(
    workspace: Workspace, home: Workspace, finished_run: Run
) -> None:
    run = workspace.train(*TINY, "data.test_fraction=0.2")
    assert not any(key.startswith("test") for key in run.metrics)
    said = workspace.must(EVALUATE, "latest", "--split", "test")
    loss = float(re.search(r"^loss +(\S+) nats", said, re.MULTILINE)[1])  # type: ignore[index]
    text = (workspace.folder / "tiny.txt").read_text()
    assert loss == pytest.approx(folio.load(run.folder).loss(text[int(0.8 * len(text)) :]).nats, abs=1e-5)
    assert "look 1 at the test split of this run, recorded in outputs/" in said
    measured = json.loads(workspace.must(EVALUATE, "latest", "--split", "test", "--json"))
    assert (measured["split"], measured["loss_nats"]) == ("test", pytest.approx(loss, abs=1e-6))
    reported = workspace.must("scripts/report.py", str(run.folder), "--test")
    assert "The test split was looked at twice, in 1 of 1 runs." in reported
    assert str(measured["loss_nats"]) in (run.folder / "report.csv").read_text()
    refusal = home.run(EVALUATE, str(finished_run.folder), "--split", "test").error_line()
    assert "data=tiny_shakespeare of this run has no test split; train with data=tiny_shakespeare_dev" in refusal


def test_evaluation_refuses_a_text_that_has_changed_since(
    two_checkpoints: tuple[Workspace, Run], make_workspace: Callable[[], Workspace]
) -> None:
    _, run = two_checkpoints
    elsewhere = make_workspace()
    text = elsewhere.folder / "tiny.txt"
    text.write_text(text.read_text() + "Zounds!")
    assert "data.path=tiny.txt" in elsewhere.run(EVALUATE, str(run.folder)).error_line()


def test_the_commands_that_a_run_prints_work(home: Workspace, finished_output: str) -> None:
    generate, evaluate = (re.search(rf"{script} (.*)", finished_output) for script in (GENERATE, EVALUATE))
    assert generate is not None
    assert evaluate is not None
    assert home.must(GENERATE, *shlex.split(generate[1]), "--max-new-tokens", "1").startswith("ROMEO:")
    assert home.must(EVALUATE, *shlex.split(evaluate[1])).endswith("the same\n")


def test_a_copied_run_folder_is_enough_to_generate_text(
    finished_run: Run, workspace: Workspace, tmp_path: Path, no_lightning: dict[str, str]
) -> None:
    """No data folder, no cache, no home, no network."""
    copy = Workspace(tmp_path / "elsewhere", workspace.environment)
    shutil.copytree(finished_run.folder, copy.folder / "given")
    alone = no_lightning | {
        "HOME": str(tmp_path / "no-home"),
        "FOLIO_ASSETS_DIR": str(tmp_path / "no-assets"),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
        "PIP_INDEX_URL": "http://127.0.0.1:9",
    }
    command = ("--prompt", "ROMEO:", "--seed", "3", "--max-new-tokens", "20")
    by_folder = copy.must(GENERATE, "given", *command, **alone)
    assert by_folder.startswith("ROMEO:")
    assert len(by_folder) == len("ROMEO:") + 20 + len("\n")
    assert copy.must(GENERATE, "given/checkpoints/best.ckpt", *command, **alone) == by_folder
    assert [path.name for path in copy.folder.iterdir()] == ["given"]


def test_a_seed_repeats_the_text_and_each_sample_has_its_own_seed(home: Workspace, finished_run: Run) -> None:
    assert finished_run.folder.is_dir()
    command = (GENERATE, "latest", "--prompt", "ROMEO:", "--max-new-tokens", "30")
    three = home.must(*command, "--seed", "5", "--num-samples", "3")
    parts = re.split(r"--- sample \d of 3, seed (\d+)\n", three)
    texts = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    assert texts.keys() == {5, 6, 7}
    assert len(set(texts.values())) == 3
    assert home.must(*command, "--seed", "6") == texts[6]


def test_prompts_of_a_batch_are_continued_like_each_alone(home: Workspace, finished_run: Run) -> None:
    """Past the 8 tokens of the context too, with other sampling options, and without a cache."""
    command = (GENERATE, str(finished_run.folder), "--max-new-tokens", "20", "--seed", "5")
    command += ("--min-p", "0.05", "--repetition-penalty", "1.3")
    prompts = ("--prompt", "A rose", "--prompt", "By any other name: ")
    said = home.must(*command, *prompts, "--num-samples", "2")
    parts = re.split(r"--- prompt (\d) of 2, sample (\d) of 2, seed (\d)\n", said)
    headings = list(zip(parts[1::4], parts[2::4], parts[3::4], strict=True))
    assert headings == [("1", "1", "5"), ("1", "2", "6"), ("2", "1", "5"), ("2", "2", "6")]
    assert home.must(*command, *prompts[:2]) == parts[4]
    assert home.must(*command, *prompts[2:], "--seed", "6", "--no-cache") == parts[16]


def test_text_can_be_generated_from_any_kept_checkpoint(two_checkpoints: tuple[Workspace, Run]) -> None:
    workspace, run = two_checkpoints
    command = (GENERATE, str(run.folder), "--prompt", "ROMEO:", "--seed", "1", "--max-new-tokens", "20")
    texts = {name: workspace.must(*command, "--checkpoint", name) for name in ("best", "step=10", "step=20", "last")}
    assert texts["best"] == texts["step=10"] != texts["step=20"] == texts["last"]


def test_a_tokenizer_that_differs_from_the_checkpoints_is_named(finished_run: Run, workspace: Workspace) -> None:
    copy = workspace.folder / "copy"
    shutil.copytree(finished_run.folder, copy)
    state = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps(state | {"characters": state["characters"][:-1]}))
    line = workspace.run(GENERATE, "copy", "--prompt", "A").error_line()
    assert "copy/tokenizer.json is not the tokenizer that copy/checkpoints/best.ckpt was trained with" in line
    (copy / "tokenizer.json").write_text("{")
    assert "copy/tokenizer.json" in workspace.run(GENERATE, "copy", "--prompt", "A").error_line()


def test_greedy_text_needs_no_seed(home: Workspace, finished_run: Run) -> None:
    command = (GENERATE, str(finished_run.folder), "--max-new-tokens", "12", "--prompt", "ROMEO:", "--greedy")
    texts = {home.must(*command, "--seed", seed) for seed in ("1", "2")}
    assert len(texts) == 1


def test_text_ends_before_the_stop_string(home: Workspace, finished_run: Run) -> None:
    command = (GENERATE, str(finished_run.folder), "--max-new-tokens", "40", "--prompt", "ROMEO:", "--seed", "1")
    whole = home.must(*command).removeprefix("ROMEO:")
    stop = whole[20:22]
    assert home.must(*command, "--stop", stop) == f"ROMEO:{whole[: whole.index(stop)]}\n"


def test_a_quantized_model_generates_text_and_its_loss_is_reported_beside_the_models(workspace: Workspace) -> None:
    run = workspace.train(*TINY, "model.d_model=16", "model.d_ff=32")
    text = workspace.must(GENERATE, "latest", "--prompt", "ROMEO:", "--max-new-tokens", "12", "--quantize", "int8")
    assert len(text) == len("ROMEO:") + 12 + len("\n")
    command = (EVALUATE, "latest", "--quantize", "int8")
    measured = json.loads(workspace.must(*command, "--json"))
    assert measured["loss_nats"] == run.metrics["val/loss_nats"]
    assert measured["int8"]["loss_nats"] != measured["loss_nats"]
    assert measured["int8"]["loss_nats"] == pytest.approx(measured["loss_nats"], abs=0.02)
    assert f"int8 bits per byte    {measured['int8']['bits_per_byte']:.4f}\n" in workspace.must(*command)


def test_a_model_that_int8_does_not_support_is_refused(home: Workspace, finished_run: Run) -> None:
    for script in (GENERATE, EVALUATE):
        line = home.run(script, str(finished_run.folder), "--quantize", "int8").error_line()
        assert "--quantize=int8: int8 weights need layers whose number of inputs is a multiple of 16" in line


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs have kernels of their own")
def test_quantization_is_refused_on_a_cpu_that_it_would_slow_down(home: Workspace, finished_run: Run) -> None:
    options = {"ATEN_CPU_CAPABILITY": "default"}
    for script in (GENERATE, EVALUATE):
        refused = home.run(script, str(finished_run.folder), "--quantize", "int8", **options)
        assert "int8 weights need a CPU with AVX2 or AVX-512" in refused.error_line()
