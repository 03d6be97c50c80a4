"""A model of each format goes from Folio to transformers and back; others evaluate it and fine-tune it."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from workspace import TINY_TEXT, Run, Workspace, choose

from folio.runs.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow

COMPANIONS = Path(sys.prefix) / "companions"
SIZE = ("model=debug", "model.d_model=16", "model.context_length=32", "data=text_file", "data.path=tiny.txt")
STEPS = ("trainer=cpu", "training.max_steps=200", "training.validate_every_steps=100", "optimizer.learning_rate=0.01")
LLAMA = ("positional_encoding=rotary", "model.norm=rms_norm", "model.activation=swiglu", "model.n_kv_heads=1")
QUICKSTART = ("positional_encoding=rotary", "model.qk_norm=true", "model.activation=relu_squared")
"""The architecture of `make train`."""

MODELS: dict[str, tuple[str, ...]] = {
    # the class in transformers: (what is trained)
    "GPT2LMHeadModel": ("model.bias=true", "tokenizer=char"),
    "GPTNeoXForCausalLM": ("positional_encoding=rotary", "tokenizer=byte"),
    "LlamaForCausalLM": (*LLAMA, "tokenizer=bpe", "tokenizer.vocab_size=300"),
    "MistralForCausalLM": (*LLAMA, "model.attention_window=8", "tokenizer=byte"),
    "Qwen3ForCausalLM": (*QUICKSTART, "tokenizer=char"),
}

Train = Callable[[str], tuple[Workspace, Run]]


@pytest.fixture(scope="module")
def trained(make_workspace: Callable[[], Workspace]) -> Train:
    """Return a function that trains a model of a class once, and exports it to the folder `exported`."""
    done: dict[str, tuple[Workspace, Run]] = {}

    def train(name: str) -> tuple[Workspace, Run]:
        if name not in done:
            workspace = make_workspace()
            run = workspace.train(*SIZE, *STEPS, *MODELS[name])
            said = workspace.must("scripts/export.py", str(run.folder), "exported")
            assert name in said
            done[name] = workspace, run
        return done[name]

    return train


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_to_transformers_and_back(name: str, trained: Train, transformers: ModuleType) -> None:
    workspace, run = trained(name)
    folder = workspace.folder / "exported"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == name
    ours = load_checkpoint(run.folder / "checkpoints" / "best.ckpt", "cpu")
    prompt = "JULIET: It"
    inputs = tokenizer(prompt, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == ours.tokenizer.encode(prompt).tolist()
    expected = ours.model.generate(inputs["input_ids"], max_new_tokens=20, temperature=0)[0].tolist()
    written = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0].tolist()
    assert written == expected
    assert tokenizer.decode(written) == ours.tokenizer.decode(expected)

    tokenizer_words = [word for word in MODELS[name] if word.startswith("tokenizer")]
    steps = choose(STEPS, "training.max_steps=20", "training.log_every_steps=1", "training.validate_every_steps=20")
    data = ("data=text_file", "data.path=tiny.txt", "model.context_length=32", "schedule.warmup_steps=2")
    again = workspace.train("init_from=exported", *tokenizer_words, *data, *steps)
    before = run.metrics["best/val/loss_nats"]
    assert dict(again.curve("train/loss_nats"))[1] == pytest.approx(before, abs=0.5)
    assert again.metrics["val/loss_nats"] < before + 0.1


@pytest.fixture(scope="module")
def companions(transformers: ModuleType) -> dict[str, str]:
    """Return the environment in which Python sees lm_eval and PEFT."""
    if not (COMPANIONS / "lm_eval").is_dir():
        pytest.skip("make test-slow installs lm_eval and PEFT into .venv/companions")
    folders = (Path(sys.prefix) / "hugging_face", COMPANIONS)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | offline | {"PYTHONPATH": os.pathsep.join(map(str, folders))}


TASK = """\
task: tiny_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""


def test_lm_eval_measures_what_evaluate_measures(trained: Train, companions: dict[str, str]) -> None:
    """With byte tokens, the bits of a token are those of a byte. evaluate.py never predicts the first token of a split:
    here it is the prefix that lm_eval puts before a text."""
    workspace, run = trained("GPTNeoXForCausalLM")
    measured = json.loads(workspace.must("scripts/evaluate.py", str(run.folder), "--json"))
    text = (workspace.folder / "tiny.txt").read_text()
    validation = text[int(len(text) * 0.9) :]
    (workspace.folder / "validation.json").write_text(json.dumps([{"text": validation[1:]}]))
    (workspace.folder / "tasks").mkdir()
    task = TASK.format(file=workspace.folder / "validation.json")
    (workspace.folder / "tasks" / "tiny_text.yaml").write_text(task)
    model = f"pretrained=exported,prefix_token_id={ord(validation[0])}"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", model, "--tasks", "tiny_text"]
    command += ["--include_path", "tasks", "--device", "cpu", "--batch_size", "4", "--output_path", "results"]
    environment = companions | {"HF_HOME": str(workspace.folder / "cache")}
    result = subprocess.run(command, cwd=workspace.folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = (workspace.folder / "results").rglob("results_*.json")
    bits = json.loads(file.read_text())["results"]["tiny_text"]["bits_per_byte,none"]
    assert bits == pytest.approx(measured["loss_nats"] / math.log(2), abs=1e-5)


def test_the_page_about_fine_tuning_runs(trained: Train, companions: dict[str, str]) -> None:
    """LoRA is PEFT's: the program of docs/fine_tuning.md, with a tiny text and few steps."""
    workspace, _ = trained("LlamaForCausalLM")
    (workspace.folder / "other.txt").write_text(TINY_TEXT.upper())
    page = (Path(__file__).parents[2] / "docs" / "fine_tuning.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    for theirs, ours in (("my_model", "exported"), ("my_text.txt", "other.txt"), ("range(200)", "range(40)")):
        assert theirs in program
        program = program.replace(theirs, ours)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=workspace.folder, env=companions, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    losses = [float(line.split()[-1]) for line in result.stdout.splitlines() if line.startswith("loss")]
    assert losses[-1] < losses[0]
    data = ("data=text_file", "data.path=tiny.txt", "tokenizer=bpe", "tokenizer.vocab_size=300")
    said = workspace.must("train.py", "init_from=tuned", *data, "trainer=cpu", "dry_run=true")
    assert "init_from=tuned: 2 layers" in said
