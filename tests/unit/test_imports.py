"""The arrows between folders: what may import what, as `docs/architecture.md` draws them."""

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

LAYERS: tuple[tuple[str, ...], ...] = (
    ("runtime",),
    ("models", "data"),
    ("config",),
    ("optim", "distributed", "generation", "runs"),
    ("objectives", "figures"),
    ("training", "report"),
    ("cli",),
    ("sweeps",),
)
"""The packages of folio from the lowest layer up: each imports itself, and what is in a layer below its own."""

WITHOUT_LIGHTNING = {"models", "data", "config", "optim", "objectives", "runs", "generation", "figures", "report"}
"""What generating and evaluating need does without Lightning, whose import takes seconds."""


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
            # `from folio import config` imports folio.config.run.
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "folio")


def is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def importers_of(*packages: str) -> set[Path]:
    return {path for path in (*SOURCES, *ENTRY_POINTS) if any(is_in(name, packages) for name in imports_of(path))}


def test_there_are_files_to_look_at() -> None:
    assert SRC / "folio" / "models" / "gpt.py" in SOURCES
    assert ROOT / "scripts" / "generate.py" in ENTRY_POINTS
    assert importers_of("folio.models.transformer_config")


def package_of(module: str) -> str:
    """models for folio.models.gpt; empty for folio itself, whose __init__ imports nothing."""
    return ".".join(module.split(".")[1:2])


def test_every_package_has_its_layer() -> None:
    packages = {package_of(name_of(path)) for path in SOURCES} - {""}
    assert sorted(packages) == sorted(package for layer in LAYERS for package in layer)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_of_the_package_imports_only_what_lies_below_it(path: Path) -> None:
    name = name_of(path)
    own = package_of(name)
    below = {package for layer in LAYERS for package in layer}
    for number, layer in enumerate(LAYERS):
        if own in layer:
            below = {own, *(package for lower in LAYERS[:number] for package in lower)}
    local = {
        module for module in imports_of(path) if is_in(module, ["folio", "scripts", "tests", "benchmarks", "train"])
    }
    wrong = {module for module in local - {"folio"} if not is_in(module, [f"folio.{package}" for package in below])}
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_no_file_imports_itself_by_a_detour() -> None:
    """Imports inside functions count: they hide a cycle, and do not end it."""
    names = {name_of(path): path for path in SOURCES}
    arrows = {name: {module for module in imports_of(path) if module in names} for name, path in names.items()}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for module in arrows[name] - {name}:
                follow(module, (*way, name))
            done.add(name)

    for name in arrows:
        follow(name, ())


def test_models_know_no_loop_config_or_tokenizer() -> None:
    strangers = importers_of("lightning", "pytorch_lightning", "hydra", "omegaconf", "pydantic", "tiktoken", "yaml")
    assert not strangers.intersection((SRC / "folio" / "models").glob("*.py"))


def test_hydra_is_for_entry_points_the_command_line_and_the_way_into_a_sweep() -> None:
    folio = SRC / "folio"
    sweeps = {folio / "sweeps" / "command_line.py", folio / "sweeps" / "worker.py"}
    assert importers_of("hydra", "omegaconf") <= {*ENTRY_POINTS, *(folio / "cli").glob("*.py"), *sweeps}


def test_optuna_is_for_searches_alone() -> None:
    assert importers_of("optuna") == {SRC / "folio" / "sweeps" / "search.py"}
    plugin = (SRC / "hydra_plugins" / "folio_sweeper.py").read_text()
    assert loaded_after(plugin, "hydra", "torch", "optuna", "joblib", "folio.sweeps.runner") == ["hydra"]


def test_lightning_is_for_training_and_its_processes_alone() -> None:
    importers = {path for path in importers_of("lightning", "pytorch_lightning") if path in SOURCES}
    assert SRC / "folio" / "training" / "module.py" in importers
    assert not {package_of(name_of(path)) for path in importers} & WITHOUT_LIGHTNING


def test_hugging_faces_library_is_for_tests_and_the_benchmark_alone() -> None:
    assert not importers_of("transformers", "huggingface_hub", "tokenizers")
    models = SRC / "folio" / "models"
    assert importers_of("safetensors") == {models / "pretrained.py", models / "gpt2_folder.py"}


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
    assert loaded_after("import folio.cli.corpus", "folio.data.corpora.prepare_text", "rich", "tiktoken") == [
        "folio.data.corpora.prepare_text"
    ]


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
    assert loaded_after(code, "folio.config.run", "torch", "lightning") == ["folio.config.run"]


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
