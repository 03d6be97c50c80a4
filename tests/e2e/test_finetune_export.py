"""A run starts from Hugging Face's GPT-2 and is exported back, without the network and without transformers."""

import json
import shutil
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from workspace import TINY, TINY_TEXT, Finished, Run, Workspace, choose

from folio.cli.corpus import prepare_data
from folio.config.run import RunConfig
from folio.objectives.objective import build_objective
from folio.runs.checkpoints import load_checkpoint

EXPORT = "scripts/export.py"
N_SYMBOLS = len(set(TINY_TEXT))

OWN_TEXT = ("tokenizer=char", "data=text_file", "data.path=tiny.txt", "trainer=cpu")
RECIPE = (
    "experiment=finetune_gpt2",
    *OWN_TEXT,
    "model.context_length=24",
    "model.dropout=0",
    "training.micro_batch_size=null",
)
STEPS = ("training.max_steps=3", "training.validate_every_steps=1", "training.log_every_steps=1", "schedule=constant")


@pytest.fixture(scope="module")
def begun(make_workspace: Callable[[], Workspace], transformers: ModuleType) -> Workspace:
    """Return a workspace with a GPT-2 of random weights in the folder `gpt2_folder`."""
    workspace = make_workspace()
    torch.manual_seed(0)
    shape = {"vocab_size": N_SYMBOLS, "n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 20}
    symbols = {"bos_token_id": None, "eos_token_id": None}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **symbols, initializer_range=0.2))
    model.save_pretrained(workspace.folder / "gpt2_folder")
    return workspace


@pytest.fixture(scope="module")
def tuned(begun: Workspace) -> Run:
    """Fine-tune it for three steps, with a rate that changes it clearly."""
    return begun.train(
        *RECIPE, *STEPS, "init_from=gpt2_folder", "schedule.warmup_steps=0", "optimizer.learning_rate=0.01"
    )


def hugging_face(transformers: ModuleType, folder: Path) -> Any:
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


def test_the_first_step_has_the_same_loss_as_hugging_face(
    begun: Workspace, tuned: Run, transformers: ModuleType
) -> None:
    assert tuned.config["model"] | {"context_length": 24, "n_layers": 2, "d_ff": 20} == tuned.config["model"]
    config = RunConfig.model_validate(
        tuned.config | {"data": tuned.config["data"] | {"path": str(begun.folder / "tiny.txt")}}
    )
    objective = build_objective(config, prepare_data(config, begun.folder / "data"))
    batch = next(iter(objective.training_loader(first_step=0)))
    model = hugging_face(transformers, begun.folder / "gpt2_folder")
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(batch.tokens).logits.flatten(0, 1), batch.targets.flatten())
    curve = dict(tuned.curve("train/loss_nats"))
    assert curve[1] == pytest.approx(loss.item(), abs=1e-5)
    assert curve[3] < curve[1]


def test_the_exported_model_computes_the_same_in_transformers(
    begun: Workspace, tuned: Run, transformers: ModuleType
) -> None:
    said = begun.must(EXPORT, str(tuned.folder), "ours", "--checkpoint", "last")
    exported = hugging_face(transformers, begun.folder / "ours")
    ours = load_checkpoint(tuned.folder / "checkpoints" / "last.ckpt", "cpu").model
    tokens = torch.arange(48).view(2, 24) % N_SYMBOLS
    with torch.no_grad():
        difference = (exported(tokens).logits - ours(tokens)).abs().max().item()
        changed = (
            (exported(tokens).logits - hugging_face(transformers, begun.folder / "gpt2_folder")(tokens).logits)
            .abs()
            .max()
        )
    assert difference < 1e-4
    assert changed > 0.01
    assert f"{exported.num_parameters():,} parameters" in said
    assert "verified" in said


def test_the_snippet_that_export_prints_loads_the_model(
    begun: Workspace, tuned: Run, transformers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = begun.must(EXPORT, "latest", "printed")
    monkeypatch.chdir(begun.folder)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(said.partition("load it with\n")[2]), names)
    assert isinstance(names["model"], transformers.GPT2LMHeadModel)


def test_another_run_can_start_from_an_export(begun: Workspace, tuned: Run) -> None:
    begun.must(EXPORT, str(tuned.folder), "again", "--checkpoint", "last")
    said = begun.must(
        "train.py", *OWN_TEXT, "init_from=again", "training.max_steps=1", "schedule=constant", "dry_run=true"
    )
    assert "init_from=again: 2 layers, 2 heads, d_model 16" in said
    assert "context 24 of 24 positions" in said


def test_a_run_resumes_without_the_folder_it_started_from(begun: Workspace, tuned: Run) -> None:
    elsewhere = begun.folder / "copy"
    shutil.copytree(tuned.folder, elsewhere)
    source = begun.folder / "gpt2_folder"
    source.rename(begun.folder / "hidden")
    try:
        begun.must("train.py", f"resume={elsewhere}", "training.max_steps=4")
    finally:
        (begun.folder / "hidden").rename(source)
    again = Run(elsewhere)
    assert again.metrics["step"] == 4
    assert dict(again.curve("train/loss_nats"))[4] < dict(tuned.curve("train/loss_nats"))[1]


def drop(folder: Path, name: str) -> None:
    rewrite(folder, lambda tensors: tensors.pop(name))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def reconfigure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def nothing(folder: Path) -> None:
    pass


BEGINNINGS: dict[str, tuple[Callable[[Path], object], tuple[str, ...], tuple[str, ...]]] = {
    # what is wrong: (what is done to the folder, what is typed, what the answer has to say)
    "a missing tensor": (
        lambda folder: drop(folder, "transformer.h.1.attn.c_proj.bias"),
        ("init_from=gpt2_folder",),
        ("init_from=gpt2_folder", "lack h.1.attn.c_proj.bias, of shape (16,)"),
    ),
    "a misshapen tensor": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({"transformer.ln_f.bias": torch.zeros(3)})),
        ("init_from=gpt2_folder",),
        ("ln_f.bias has shape (3,)", "(16,)"),
    ),
    "a file cut short": (cut, ("init_from=gpt2_folder",), ("gpt2_folder/model.safetensors cannot be read",)),
    "another model": (
        lambda folder: reconfigure(folder, model_type="mamba"),
        ("init_from=gpt2_folder",),
        ('model_type="mamba"', "gpt2, gpt_neox, llama"),
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        ("init_from=gpt2_folder",),
        ("config.json does not exist",),
    ),
    "a name of the hub": (nothing, ("init_from=openai-community/gpt2",), ("openai-community/gpt2 is not a folder",)),
    "no folder for the recipe": (nothing, ("experiment=finetune_gpt2",), ("init_from must be given",)),
    "another size": (
        nothing,
        ("init_from=gpt2_folder", "model.n_layers=4"),
        ("model.n_layers=4", "init_from=gpt2_folder", "has 2"),
    ),
    "a longer context": (
        nothing,
        ("init_from=gpt2_folder", "model.context_length=41"),
        ("model.context_length=41", "40 positions"),
    ),
    "other positions": (
        nothing,
        ("init_from=gpt2_folder", "positional_encoding=alibi"),
        ("positional_encoding=alibi", "learned"),
    ),
    "another tokenizer": (
        nothing,
        ("init_from=gpt2_folder", "tokenizer=byte"),
        ("tokenizer=byte has 256 symbols", f"init_from=gpt2_folder has {N_SYMBOLS}"),
    ),
}


@pytest.fixture(scope="module")
def no_torch(forbid_imports: Callable[..., dict[str, str]]) -> dict[str, str]:
    return forbid_imports("torch", "lightning", "transformers")


@pytest.fixture(scope="module")
def answers(
    begun: Workspace, make_workspace: Callable[[], Workspace], no_torch: dict[str, str]
) -> dict[str, tuple[Workspace, Finished]]:
    """Run each in its own workspace, two at a time."""

    def answer(mistake: str) -> tuple[Workspace, Finished]:
        spoil, typed, _ = BEGINNINGS[mistake]
        workspace = make_workspace()
        shutil.copytree(begun.folder / "gpt2_folder", workspace.folder / "gpt2_folder")
        spoil(workspace.folder / "gpt2_folder")
        return workspace, workspace.run("train.py", *choose(OWN_TEXT, *typed), **no_torch)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BEGINNINGS, pool.map(answer, BEGINNINGS), strict=True))


@pytest.mark.parametrize("mistake", BEGINNINGS)
def test_a_run_refuses_to_start_from(mistake: str, answers: dict[str, tuple[Workspace, Finished]]) -> None:
    workspace, finished = answers[mistake]
    line = finished.error_line()
    missing = [word for word in BEGINNINGS[mistake][2] if word not in line]
    assert not missing, line
    assert not (workspace.folder / "outputs").exists()


def test_an_old_file_with_a_missing_tensor_leaves_no_run_folder(begun: Workspace, workspace: Workspace) -> None:
    folder = workspace.folder / "gpt2_folder"
    shutil.copytree(begun.folder / "gpt2_folder", folder)
    drop(folder, "transformer.wpe.weight")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "lack wpe.weight" in workspace.run("train.py", *OWN_TEXT, "init_from=gpt2_folder").error_line()
    assert not (workspace.folder / "outputs").exists()


def test_an_impossible_export_is_refused_at_once(begun: Workspace, tuned: Run, no_torch: dict[str, str]) -> None:
    before = begun.files()
    assert "RUN=nowhere" in begun.run(EXPORT, "nowhere", "new", **no_torch).error_line()
    taken = begun.run(EXPORT, str(tuned.folder), "gpt2_folder", **no_torch).error_line()
    assert "DEST=gpt2_folder is not empty" in taken
    assert "--force" in taken
    file = begun.run(EXPORT, str(tuned.folder), "tiny.txt", "--force", **no_torch)
    assert "DEST=tiny.txt is a file" in file.error_line()
    assert begun.files() == before


def test_an_export_is_replaced_with_force(begun: Workspace, tuned: Run) -> None:
    for checkpoint in ("best", "last"):
        begun.must(EXPORT, str(tuned.folder), "forced", "--checkpoint", checkpoint, "--force")
        weights = load_file(begun.folder / "forced" / "model.safetensors")
        assert torch.equal(weights["transformer.wte.weight"], tuned.weights(checkpoint)["model.token_embedding.weight"])


def test_a_model_that_no_format_holds_is_refused_with_the_option_and_the_recipe(workspace: Workspace) -> None:
    run = workspace.train(*TINY, "positional_encoding=alibi", "training.max_steps=1", "schedule=constant")
    line = workspace.run(EXPORT, str(run.folder), "exported").error_line()
    assert "positional_encoding=alibi stands in the way" in line
    assert "the nearest is GPT-2: train with positional_encoding=learned" in line
    assert not (workspace.folder / "exported").exists()
