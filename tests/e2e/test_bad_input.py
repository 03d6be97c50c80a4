"""A mistake is reported before anything starts: one line, exit code 2, nothing trained, no torch imported."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from workspace import ROOT, TINY, Finished, Run, Workspace

NEWLINES_AT_THE_END = "a few words\n" * 20 + "\n" * 100
OWN_TEXT = ("model=debug", "tokenizer=char", "data=text_file")
MASKED = ("model=encoder_small", "objective=masked_lm")
PREFIXED = ("model=encoder_decoder_small", "objective=prefix_lm")

TRAINING_MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # mistake: (overrides, parts of the error message)
    "an unknown key": (("bogus_key=1",), ("bogus_key",)),
    "an unknown key added with a plus": (("+model.dropuot=0.1",), ("model.dropuot", "did you mean model.dropout?")),
    "a misspelt key": (("model.n_layer=3",), ("model.n_layer", "did you mean model.n_layers?")),
    "a key without its section": (("learning_rate=0.1",), ("learning_rate", "did you mean optimizer.learning_rate?")),
    "a misspelt group": (("modle=debug",), ("modle", "did you mean model?")),
    "a misspelt option": (("model=nanoo",), ("model=nanoo", "did you mean nano?", "mini", "gpt2_small")),
    "an option of null": (("model=null",), ("model=nano",)),
    "a syntax error": (("seed=[1",), ("seed=[1",)),
    "a wrong type": (("model.n_layers=three",), ("model.n_layers=three", "integer")),
    "a fraction for a whole number": (("training.batch_size=1.5",), ("training.batch_size=1.5", "integer")),
    "an unknown name in a closed list": (
        ("data.window_order=suffled",),
        ("data.window_order=suffled", "did you mean shuffled?"),
    ),
    "heads that do not divide d_model": (("model.d_model=126",), ("model.d_model=126", "model.n_heads=4", "128")),
    "an odd d_model with sinusoidal positions": (
        ("positional_encoding=sinusoidal", "model.d_model=9", "model.n_heads=1"),
        ("model.d_model=9", "even"),
    ),
    "no steps": (("training.max_steps=0",), ("training.max_steps=0",)),
    "a negative learning rate": (("optimizer.learning_rate=-0.1",), ("optimizer.learning_rate=-0.1",)),
    "a warm-up as long as the run": (
        ("schedule.warmup_steps=30", "training.max_steps=30"),
        ("schedule.warmup_steps=30", "training.max_steps=30"),
    ),
    "noam without a warm-up": (
        ("schedule=noam", "schedule.warmup_steps=0"),
        ("schedule.warmup_steps=0", "greater than 0"),
    ),
    "noam with a scale of zero": (("schedule=noam", "schedule.scale=0"), ("schedule.scale=0", "greater than 0")),
    "a misspelt key of muon": (("optimizer=muon", "optimizer.nestrov=true"), ("optimizer.nestrov", "nesterov?")),
    "a key of muon for adamw": (("+optimizer.momentum=0.9",), ("optimizer.momentum", "another optimizer")),
    "a causal LM for an encoder": (
        ("model=encoder_small",),
        ("objective=causal_lm", "model=encoder_small", "add objective=masked_lm"),
    ),
    "a masked LM for a decoder": (
        ("objective=masked_lm",),
        ("objective=masked_lm", "model=nano", "add objective=causal_lm"),
    ),
    "a masked LM for an encoder-decoder": (
        ("model=encoder_decoder_small", "objective=masked_lm"),
        ("objective=masked_lm", "model=encoder_decoder_small", "add objective=prefix_lm"),
    ),
    "conditioning for a decoder": (
        ("conditioning=cross_attention",),
        ("conditioning=cross_attention", "model.family=decoder", "leave it out"),
    ),
    "an encoder-decoder without conditioning": (
        ("model=encoder_decoder_small", "objective=prefix_lm", "conditioning=null"),
        ("conditioning=null", "give hidden_cache or cross_attention"),
    ),
    "a misspelt conditioning": (
        ("model=encoder_decoder_small", "objective=prefix_lm", "conditioning=cross_atention"),
        ("conditioning=cross_atention", "did you mean cross_attention?"),
    ),
    "a misspelt objective": (("objective=maskedlm",), ("objective=maskedlm", "did you mean masked_lm?")),
    "a misspelt family": (("model.family=encodr",), ("model.family=encodr", "did you mean encoder?")),
    "a misspelt activation": (("model.activation=swigulu",), ("model.activation=swigulu", "did you mean swiglu?")),
    "a misspelt norm": (("model.norm=rmsnorm",), ("model.norm=rmsnorm", "did you mean rms_norm?")),
    "a misspelt norm position": (("model.norm_position=prenorm",), ("model.norm_position=prenorm", "mean pre?")),
    "a misspelt init": (("model.init=xavir",), ("model.init=xavir", "did you mean xavier?")),
    "mask and random shares above 1": (
        (*MASKED, "objective.mask_share=0.9", "objective.random_share=0.2"),
        ("objective.mask_share=0.9", "objective.random_share=0.2", "not add up to more than 1", "BERT has 0.8 and 0.1"),
    ),
    "a mask fraction above 1": (
        (*MASKED, "objective.mask_fraction=1.5"),
        ("objective.mask_fraction=1.5", "less than or equal to 1"),
    ),
    "a key of the masked LM for the prefix LM": (
        (*PREFIXED, "+objective.mask_fraction=0.1"),
        ("objective.mask_fraction", "another objective"),
    ),
    "a prefix longer than the context": (
        (*PREFIXED, "model.context_length=64", "objective.max_prefix_length=65"),
        ("objective.max_prefix_length=65", "model.context_length=64", "null sets it to that"),
    ),
    "a shortest prefix longer than the longest": (
        (*PREFIXED, "objective.min_prefix_length=9", "objective.max_prefix_length=8"),
        ("objective.min_prefix_length=9", "8 tokens", "lower it"),
    ),
    "a window with prefix longer than the split": (
        (*PREFIXED, *OWN_TEXT[1:], "data.path=tiny.txt", "model.context_length=200"),
        ("model.context_length=200", "val split", "a window takes 400 tokens: use at most"),
    ),
    "a huge number": (("training.max_steps=1000000000000000000000",), ("training.max_steps=1000",)),
    "a number of 5,000 digits": (("training.max_steps=" + "9" * 5000,), ("training.max_steps=999", "more digits")),
    "a folder of 5,000 letters": (("resume=" + "x" * 5000,), ("xxx", "File name too long")),
    "an unknown key of Hydra's own": (("hydra.sweeper.params={a:1}",), ("hydra.sweeper.params is not a key",)),
    "a number too large for a float": (("optimizer.learning_rate=1e400",), ("optimizer.learning_rate=inf", "finite")),
    "a huge number of layers": (("model.n_layers=1000000000000",), ("model.n_layers=1000000000000", "10000 or less")),
    "a deleted key": (("~training.max_steps",), ("training.max_steps is missing",)),
    "a _target_": (("+trainer._target_=os.system",), ("trainer._target_ is not a key",)),
    "a name with a path": (("model.name=../../x",), ("model.name=../../x",)),
    "an empty folder name": (("paths.output_dir=",), ("paths.output_dir=",)),
    "an invalid interpolation": (("seed=${bogus}",), ("seed: ", "'bogus' not found")),
    "a list of options": (("model=[nano,mini]",), ("model=[nano,mini]", "one option")),
    "an added option": (("+model=mini",), ("+model", "without the plus")),
    "half a surrogate pair": (("name=\udcff",), (r"\udcff",)),
    "a text with only newlines at its end": (
        (*MASKED, *OWN_TEXT[1:], "data.path=newlines.txt"),
        ("val split", "only newlines", "objective=masked_lm"),
    ),
    "a vocabulary without room for the mask": (
        (*MASKED, "tokenizer=gpt2", "model.vocab_size=50257"),
        ("model.vocab_size=50257", "gpt2", "50258 symbols, including the mask"),
    ),
    "keeping checkpoints every 0 steps": (
        ("callbacks.checkpoint.keep_every_steps=0",),
        ("callbacks.checkpoint.keep_every_steps=0",),
    ),
    "a batch that the devices do not divide": (
        ("trainer=ddp_cpu", "trainer.devices=3"),
        ("batch_size=8", "trainer.devices=3"),
    ),
    "several machines without torchrun": (("trainer=ddp_cpu", "trainer.num_nodes=2"), ("torchrun", "srun")),
    "float16 on a CPU": (("trainer=cpu", "trainer.precision=16-mixed"), ("trainer.precision=16-mixed", "bf16-mixed")),
    "an output folder that is a file": (("paths.output_dir=tiny.txt",), ("paths.output_dir=tiny.txt", "cannot write")),
    "a home folder of no one": (("paths.output_dir=~nobody-here/x",), ("paths.output_dir=~nobody-here/x", "no user")),
    "a pattern without files": (("data=text_files", "data.path=folder"), ("data.path=folder", "matches no file")),
    "float16 with FSDP": (("trainer=fsdp", "trainer.precision=16-mixed"), ("trainer.precision=16-mixed", "bf16-mixed")),
    "a path for a corpus without one": (("data.path=tiny.txt",), ("data.path=tiny.txt", "data=text_file")),
    "no path": (OWN_TEXT, ("data.path",)),
    "a missing text": ((*OWN_TEXT, "data.path=none.txt"), ("data.path=none.txt", "does not exist")),
    "a folder for a text": ((*OWN_TEXT, "data.path=folder"), ("data.path=folder",)),
    "a text of one character": ((*OWN_TEXT, "data.path=one.txt"), ("data.path=one.txt", "1 character", "longer text")),
    "a text shorter than a window": (
        (*OWN_TEXT, "data.path=short.txt"),
        ("val split", "model.context_length=8", "tokens"),
    ),
    "a binary file": ((*OWN_TEXT, "data.path=binary"), ("data.path=binary", "NUL byte", "offset 0")),
    "a pipe for a text": ((*OWN_TEXT, "data.path=pipe"), ("data.path=pipe", "not a regular file")),
    "an empty text": ((*OWN_TEXT, "data.path=empty.txt"), ("data.path=empty.txt", "empty")),
    "a text in another encoding": ((*OWN_TEXT, "data.path=latin1.txt"), ("data.path=latin1.txt", "UTF-8", "offset 1")),
    "a context longer than the split": (
        (*TINY, "model.context_length=2000"),
        ("model.context_length=2000", "val split", "tokens"),
    ),
    "a vocabulary smaller than the tokenizer's": ((*TINY, "model.vocab_size=5"), ("model.vocab_size=5", "char")),
    "a word vocabulary that is too small": (
        ("tokenizer=word", "tokenizer.max_vocab_size=3"),
        ("tokenizer.max_vocab_size=3", "greater than or equal to 4"),
    ),
    "a vocabulary size for a fixed tokenizer": (
        ("tokenizer=gpt2", "tokenizer.max_vocab_size=5"),
        ("tokenizer.max_vocab_size", "another tokenizer"),
    ),
    "a vocabulary padded too far": ((*TINY, "model.vocab_size=129"), ("model.vocab_size=129", "128")),
    "resume of a missing run": (("resume=nowhere",), ("resume=nowhere", "nowhere/config.yaml")),
    "an empty resume": (("resume=",), ("resume=",)),
    "resume=latest without runs": (("resume=latest",), ("outputs",)),
}

GENERATION_MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a negative temperature": (("--temperature", "-1"), ("temperature=-1",)),
    "a top-k of 0": (("--top-k", "0"), ("top-k=0",)),
    "a top-p of 0": (("--top-p", "0"), ("top-p=0",)),
    "no tokens": (("--max-new-tokens", "0"), ("--max-new-tokens=0",)),
    "no samples": (("--num-samples", "0"), ("--num-samples=0",)),
    "a negative seed": (("--seed", "-1"), ("--seed=-1",)),
    "an empty stop": (("--stop", ""), ("--stop",)),
    "an empty prompt": (("--prompt", ""), ("prompt=''", "gives no tokens")),
    "one empty prompt of two": (("--prompt", "A", "--prompt", ""), ("prompt=''",)),
    "a min-p of 0": (("--min-p", "0"), ("min-p=0",)),
    "a repetition penalty of 0": (("--repetition-penalty", "0"), ("repetition-penalty=0",)),
    "a window of 0": (("--window", "0"), ("window=0",)),
    "a window longer than learned positions": (("--window", "9"), ("window=9", "8 positions", "learned")),
    "a prefix for a decoder": (("--prefix", "ROMEO:"), ("prefix='ROMEO:'", "the model is a decoder")),
    "an unknown checkpoint": (("--checkpoint", "newest"), ("--checkpoint=newest: ", "it has best, last\n")),
    "the checkpoint of a step that was not kept": (
        ("--checkpoint=step=300",),
        ("--checkpoint=step=300: ", "best, last"),
    ),
    "half a surrogate pair": (("--prompt", "ROMEO\udcff"), (r"'\udcff'", "position 5")),
    "a character outside the vocabulary": (("--prompt", "ROMEO: é"), ("'é' (U+00E9)", "position 7")),
}


Result = tuple[Workspace, Finished]


@pytest.fixture(scope="module")
def no_torch(forbid_imports: Callable[..., dict[str, str]]) -> dict[str, str]:
    return forbid_imports("torch", "lightning")


@pytest.fixture(scope="module")
def training_results(make_workspace: Callable[[], Workspace], no_torch: dict[str, str]) -> dict[str, Result]:
    """Return the result of each mistake, tried in its own workspace, as many in parallel as there are CPUs."""

    def try_mistake(mistake: str) -> Result:
        workspace = make_workspace()
        (workspace.folder / "folder").mkdir()
        (workspace.folder / "empty.txt").touch()
        (workspace.folder / "one.txt").write_text("x")
        (workspace.folder / "short.txt").write_text("to be, or not")
        (workspace.folder / "binary").write_bytes(bytes(range(256)))
        os.mkfifo(workspace.folder / "pipe")
        (workspace.folder / "newlines.txt").write_text(NEWLINES_AT_THE_END)
        (workspace.folder / "latin1.txt").write_bytes("né pour écrire".encode("latin1"))
        return workspace, workspace.run("train.py", *TRAINING_MISTAKES[mistake][0], **no_torch)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(TRAINING_MISTAKES, pool.map(try_mistake, TRAINING_MISTAKES), strict=True))


@pytest.mark.parametrize("mistake", TRAINING_MISTAKES)
def test_training_does_not_start_with(mistake: str, training_results: dict[str, Result]) -> None:
    workspace, finished = training_results[mistake]
    line = finished.error_line()
    missing = [word for word in TRAINING_MISTAKES[mistake][1] if word not in line]
    assert not missing, line
    assert not (workspace.folder / "outputs").exists()


PREPARING_MISTAKES = (
    "a misspelt key",
    "a misspelt option",
    "a huge number",
    "an empty folder name",
    "an empty text",
    "no path",
    "a pattern without files",
)


@pytest.mark.parametrize("mistake", PREPARING_MISTAKES)
def test_no_data_is_prepared_with(mistake: str, workspace: Workspace, no_torch: dict[str, str]) -> None:
    (workspace.folder / "empty.txt").touch()
    before = workspace.files()
    line = workspace.run("scripts/prepare_data.py", *TRAINING_MISTAKES[mistake][0], **no_torch).error_line()
    assert all(word in line for word in TRAINING_MISTAKES[mistake][1]), line
    assert workspace.files() == before


@pytest.fixture(scope="module")
def generation_results(home: Workspace, finished_run: Run, no_torch: dict[str, str]) -> dict[str, Finished]:
    """Return the result of each mistake, as many in parallel as there are CPUs."""

    def try_mistake(mistake: str) -> Finished:
        return home.run("scripts/generate.py", str(finished_run.folder), *GENERATION_MISTAKES[mistake][0], **no_torch)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(GENERATION_MISTAKES, pool.map(try_mistake, GENERATION_MISTAKES), strict=True))


@pytest.mark.parametrize("mistake", GENERATION_MISTAKES)
def test_no_text_is_generated_with(mistake: str, generation_results: dict[str, Finished]) -> None:
    line = generation_results[mistake].error_line()
    missing = [word for word in GENERATION_MISTAKES[mistake][1] if word not in line]
    assert not missing, line
    assert generation_results[mistake].stdout == ""


SCRIPTS = ("generate", "evaluate", "export", "figures")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_does_not_exist_is_named(script: str, workspace: Workspace, no_torch: dict[str, str]) -> None:
    more = ("new",) if script == "export" else ()
    before = workspace.files()
    for typed in ("nowhere", "latest"):
        assert typed in workspace.run(f"scripts/{script}.py", typed, *more, **no_torch).error_line()
    assert workspace.files() == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_that_is_not_a_checkpoint_is_named(script: str, workspace: Workspace) -> None:
    more = ("new",) if script == "export" else ()
    assert "tiny.txt" in workspace.run(f"scripts/{script}.py", "tiny.txt", *more).error_line()


@pytest.mark.parametrize(
    ("script", "typed", "words"),
    [
        ("generate", ("--tempreature", "1"), "--tempreature"),
        ("generate", ("--top-k", "many"), "--top-k"),
        ("generate", ("--device", "nonsense"), "--device"),
        ("evaluate", ("--split", "valid"), "--split"),
        ("evaluate", ("--context-length", "0"), "--context-length=0"),
        ("export", (), "DEST"),
        ("export", (".",), "DEST=."),
        ("figures", ("--layers", "9" * 5000), "--layers=9"),
    ],
    ids=str,
)
def test_a_mistake_on_the_command_line_of_a_script_is_one_line_before_torch_is_imported(
    script: str, typed: tuple[str, ...], words: str, home: Workspace, finished_run: Run, no_torch: dict[str, str]
) -> None:
    """tests/unit/test_bad_command_lines.py tries many more, without starting a process for each."""
    before = home.files()
    finished = home.run(f"scripts/{script}.py", str(finished_run.folder), *typed, **no_torch)
    assert words in finished.error_line()
    assert finished.stdout == ""
    assert home.files() == before


@pytest.mark.parametrize(
    ("override", "key"),
    [("seed=2", "seed"), ("model=nano", "model"), ("optimizer.learning_rate=0.1", "optimizer.learning_rate")],
)
def test_a_resumed_run_refuses_to_become_another_experiment(
    override: str, key: str, home: Workspace, finished_run: Run, no_torch: dict[str, str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.files()}
    line = home.run("train.py", f"resume={finished_run.folder}", override, **no_torch).error_line()
    assert line.startswith(f"error: {key}=")
    assert {path: path.stat().st_mtime_ns for path in home.files()} == before


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (
            "experiment/nanogpt_shakespeare_char.yaml",
            "max_steps:",
            "max_step:",
            ("training.max_step ", "did you mean training.max_steps?", "nanogpt_shakespeare_char.yaml"),
        ),
        ("experiment/nanogpt_shakespeare_char.yaml", "training:", "trainning:", ("trainning", "training?")),
        ("optimizer/adamw.yaml", "weight_decay:", "wait_decay:", ("optimizer.wait_decay", "optimizer/adamw.yaml")),
        ("train.yaml", "deterministic:", "determinstic:", ("determinstic", "deterministic?", "train.yaml")),
        ("experiment/nanogpt_shakespeare_char.yaml", "n_heads: 6", "n_heads: six", ("model.n_heads=six", "integer")),
        ("positional_encoding/learned.yaml", "name: learned", "name: [learned", ("learned.yaml, line 3", "expected")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_a_yaml_file_is_reported_with_the_file(
    file: str, old: str, new: str, words: tuple[str, ...], workspace: Workspace, no_torch: dict[str, str]
) -> None:
    for name in ("train.py", "conf"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, workspace.folder / name)
    path = workspace.folder / "conf" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    line = workspace.run(str(workspace.folder / "train.py"), "experiment=nanogpt_shakespeare_char", **no_torch)
    missing = [word for word in words if word not in line.error_line()]
    assert not missing, line
    assert not (workspace.folder / "outputs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_reported_in_one_line_and_not_replaced(workspace: Workspace) -> None:
    line = workspace.run("train.py", *TINY[:-1], "trainer=gpu").error_line()
    assert "trainer=gpu" in line
    assert "trainer=cpu" in line
    assert not (workspace.folder / "outputs").exists()


def test_an_output_folder_that_cannot_be_created_is_reported_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = workspace.run("train.py", *TINY, f"paths.output_dir={tmp_path / 'file'}").error_line()
    assert "paths.output_dir" in line


def test_a_program_that_needs_a_forbidden_import_ends(workspace: Workspace, no_torch: dict[str, str]) -> None:
    """The tests above depend on this."""
    finished = workspace.run("train.py", *TINY, **no_torch)
    assert finished.code == 1
    assert "ForbiddenImport: torch" in finished.stderr


def test_a_run_that_diverges_ends_with_one_line_and_no_traceback(workspace: Workspace) -> None:
    diverging = ("optimizer=sgd", "optimizer.learning_rate=1e30", "training.gradient_clip_norm=null")
    line = workspace.run("train.py", *TINY, *diverging).error_line()
    assert "the gradients of step 2 are not finite" in line
    assert "lower optimizer.learning_rate" in line
