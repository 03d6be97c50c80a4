"""The arrows between folders: entry points -> cli, config -> training -> models, data -> nothing local."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
SOURCES = sorted((SRC / "folio").rglob("*.py"))
ENTRY_POINTS = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]

# Evaluating and generating go without Lightning, whose import takes seconds.
WITHOUT_LIGHTNING = {
    "allocator.py",
    "batches.py",
    "checkpoint.py",
    "console.py",
    "devices.py",
    "divergence.py",
    "evaluation.py",
    "muon.py",
    "objectives.py",
    "optimizers.py",
    "preflight.py",
    "rewind.py",
    "schedules.py",
    "world.py",
}

ABOVE = {
    "folio.benchmark": {"folio.explain", "folio.sweeps"},  # measures the whole
    "folio.sweeps": {"folio.explain", "folio.benchmark"},  # many runs of the whole
    "folio.training": {"folio.cli", "folio.explain", "folio.sweeps", "folio.benchmark"},
    "folio.cli": {"folio.training", "folio.sweeps", "folio.benchmark"},
    "folio": {"folio.cli", "folio.training", "folio.sweeps", "folio.benchmark"},
}
"""What the files of a package, of the first that fits, must not import."""


def name_of(path: Path) -> str:
    """folio.models.gpt for src/folio/models/gpt.py."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, *, at_start_only: bool = False) -> set[str]:
    """Full names that a file imports; at_start_only leaves out those inside functions and TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(names_in(tree.body if at_start_only else ast.walk(tree)))


def names_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield node.module or ""
            # `from folio import config` imports folio.config.
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "folio")


def is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def importers_of(*packages: str) -> set[Path]:
    return {path for path in (*SOURCES, *ENTRY_POINTS) if any(is_in(name, packages) for name in imports_of(path))}


def test_there_are_files_to_look_at() -> None:
    assert SRC / "folio" / "models" / "gpt.py" in SOURCES
    assert ROOT / "scripts" / "generate.py" in ENTRY_POINTS
    assert importers_of("folio.models.transformer_config")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_of_the_package_imports_only_what_lies_below_it(path: Path) -> None:
    name = name_of(path)
    if is_in(name, ["folio.models"]):
        allowed = {"folio.models"}
    elif is_in(name, ["folio.data"]):
        allowed = {"folio.data", "folio.errors", "folio.files"}
    else:
        everything = {name_of(source) for source in SOURCES} - {"folio"}
        above = next((modules for package, modules in ABOVE.items() if is_in(name, [package])), ABOVE["folio"])
        allowed = {module for module in everything if not is_in(module, above)}
    local = {module for module in imports_of(path) if is_in(module, ["folio", "scripts", "tests", "train"])}
    local -= {"folio"}  # a name of its __init__, which imports nothing; a module of it is there by its full name
    wrong = {module for module in local if not is_in(module, allowed)}
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_models_know_no_loop_config_or_tokenizer() -> None:
    strangers = importers_of("lightning", "pytorch_lightning", "hydra", "omegaconf", "pydantic", "tiktoken", "yaml")
    assert not strangers.intersection((SRC / "folio" / "models").glob("*.py"))


def test_hydra_is_for_entry_points_cli_explain_and_the_way_into_a_sweep_alone() -> None:
    folio = SRC / "folio"
    knowing = {
        folio / "cli.py",
        folio / "explain.py",
        folio / "sweeps" / "command_line.py",
        folio / "sweeps" / "job.py",
    }
    assert importers_of("hydra", "omegaconf") <= {*ENTRY_POINTS, *knowing}


def test_optuna_is_for_searches_alone() -> None:
    assert importers_of("optuna") == {SRC / "folio" / "sweeps" / "search.py"}
    plugin = (SRC / "hydra_plugins" / "folio_sweeper.py").read_text()
    assert loaded_after(plugin, "hydra", "torch", "optuna", "joblib", "folio.sweeps.lead") == ["hydra"]


def test_lightning_is_for_the_training_loop_alone() -> None:
    training = SRC / "folio" / "training"
    importers = importers_of("lightning", "pytorch_lightning").intersection(SOURCES)
    assert training / "lit_module.py" in importers
    # What measures the whole of train.py has to be part of the loop, too.
    assert {path.parent for path in importers - {SRC / "folio" / "benchmark" / "lightning_side.py"}} == {training}
    assert not importers.intersection(training / name for name in WITHOUT_LIGHTNING)


def test_hugging_faces_library_is_for_tests_and_the_benchmark_alone() -> None:
    assert not importers_of("transformers", "huggingface_hub", "tokenizers")
    models = SRC / "folio" / "models"
    assert importers_of("safetensors") == {models / "pretrained.py", models / "gpt2_format.py"}


def loaded_after(code: str, *packages: str) -> list[str]:
    """Which of the packages a fresh Python holds after running the code."""
    check = f"import sys\n{code}\nprint(*(name for name in {packages!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def importing(path: Path, *, at_start_only: bool) -> str:
    modules = imports_of(path, at_start_only=at_start_only)
    return "\n".join(f"import {module}" for module in sorted(modules))


@pytest.mark.parametrize("script", ["generate", "evaluate", "export"])
def test_a_script_that_uses_a_model_never_loads_lightning(script: str) -> None:
    code = importing(ROOT / "scripts" / f"{script}.py", at_start_only=False)
    assert loaded_after(code, "torch", "lightning", "pytorch_lightning") == ["torch"]


def test_writing_text_starts_without_what_training_alone_needs() -> None:
    """Seconds of imports: sympy comes with torch's compiler, matplotlib with figures and with torchmetrics."""
    code = importing(ROOT / "scripts" / "generate.py", at_start_only=False)
    strangers = ("torch._dynamo", "sympy", "torchmetrics", "matplotlib", "tensorboard", "rich.progress")
    assert loaded_after(code, "folio.generation.generate", *strangers) == ["folio.generation.generate"]


def test_training_looks_at_prepared_data_without_what_preparing_needs() -> None:
    assert loaded_after("import folio.cli", "folio.data.prepare", "rich", "tiktoken") == ["folio.data.prepare"]


def test_a_report_needs_neither_torch_nor_before_it_draws_matplotlib() -> None:
    code = importing(ROOT / "scripts" / "report.py", at_start_only=False)
    assert loaded_after(code, "folio.report", "torch", "matplotlib", "tensorboard") == ["folio.report"]


def test_mistakes_are_answered_before_torch_is_loaded() -> None:
    """What every entry point imports before it has checked its arguments."""
    paths = [
        ROOT / "train.py",
        *(
            ROOT / "scripts" / f"{name}.py"
            for name in ("generate", "evaluate", "export", "figures", "prepare_data", "report")
        ),
    ]
    code = "\n".join(importing(path, at_start_only=True) for path in paths)
    assert loaded_after(code, "folio.config", "torch", "lightning") == ["folio.config"]


def test_the_config_of_a_model_is_checked_without_torch() -> None:
    assert loaded_after("from folio.models import GPTConfig", "folio.models.transformer_config", "torch") == [
        "folio.models.transformer_config"
    ]


def test_the_model_works_alone_where_nothing_but_torch_is_installed() -> None:
    code = """
for name in ("lightning", "hydra", "omegaconf", "pydantic", "tiktoken", "yaml", "rich", "typer", "matplotlib"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
from folio.models import GPT, GPTConfig
config = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
assert GPT(config)(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 65)
"""
    assert loaded_after(code, "folio.models.gpt") == ["folio.models.gpt"]
