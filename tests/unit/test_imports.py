"""Which package may import which, as docs/architecture.md draws it, and how little each command imports at start."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
FOLIO = SRC / "folio"
SOURCES = sorted(FOLIO.rglob("*.py"))
ENTRY_POINTS = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("runtime",),
    ("models", "data"),
    ("config",),
    ("optim", "distributed", "generation", "runs"),
    ("objectives", "figures"),
    ("training", "report", "export"),
    ("cli", "serve"),
    ("sweeps",),
    ("api",),
)
"""The packages of folio, from the bottom up. A package may import itself and the packages of the layers below."""

WITHOUT_LIGHTNING = {package for layer in LAYERS[:6] for package in layer} - {"runtime", "distributed", "training"}
"""Packages that generation and evaluation need, and that therefore may not import Lightning, which takes seconds."""


def module_name(path: Path) -> str:
    """Return folio.models.gpt for src/folio/models/gpt.py."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def package_name(module: str) -> str:
    """Return models for folio.models.gpt; empty for folio itself, whose __init__ imports nothing."""
    return ".".join(module.split(".")[1:2])


def imported_modules(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the full names of the modules that a file imports.

    top_level_only leaves out imports inside functions and under TYPE_CHECKING.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(modules_in(tree.body if top_level_only else ast.walk(tree)))


def modules_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
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
    return {path for path in (*SOURCES, *ENTRY_POINTS) if any(is_in(name, packages) for name in imported_modules(path))}


def test_the_files_are_found() -> None:
    assert FOLIO / "models" / "gpt.py" in SOURCES
    assert ROOT / "scripts" / "generate.py" in ENTRY_POINTS
    assert importers_of("folio.models.transformer_config")


def test_every_package_is_in_one_layer() -> None:
    packages = {package_name(module_name(path)) for path in SOURCES} - {""}
    assert sorted(packages) == sorted(package for layer in LAYERS for package in layer)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_only_its_own_package_and_lower_layers(path: Path) -> None:
    name = module_name(path)
    own = package_name(name)
    allowed = {package for layer in LAYERS for package in layer}  # for folio itself
    for number, layer in enumerate(LAYERS):
        if own in layer:
            allowed = {own, *(package for lower in LAYERS[:number] for package in lower)}
    local = {
        module
        for module in imported_modules(path)
        if is_in(module, ["folio", "scripts", "tests", "benchmarks", "train"])
    }
    wrong = {module for module in local - {"folio"} if not is_in(module, [f"folio.{package}" for package in allowed])}
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_there_is_no_import_cycle() -> None:
    """Imports inside functions count, because they hide a cycle without removing it."""
    names = {module_name(path): path for path in SOURCES}
    imports = {name: {module for module in imported_modules(path) if module in names} for name, path in names.items()}
    done: set[str] = set()

    def follow(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, " -> ".join((*chain[chain.index(name) :], name))
        if name not in done:
            for module in imports[name] - {name}:
                follow(module, (*chain, name))
            done.add(name)

    for name in imports:
        follow(name, ())


def test_no_two_public_classes_share_a_name() -> None:
    modules = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(module_name(path))
    shared = {name: where for name, where in modules.items() if len(where) > 1}
    assert not shared, "\n".join(f"{name}: {', '.join(where)}" for name, where in shared.items())


def test_models_import_no_loop_config_or_tokenizer() -> None:
    importers = importers_of("lightning", "pytorch_lightning", "hydra", "omegaconf", "pydantic", "tiktoken", "yaml")
    assert not importers.intersection((FOLIO / "models").rglob("*.py"))


def test_only_entry_points_cli_and_two_modules_of_sweeps_import_hydra() -> None:
    sweeps = {FOLIO / "sweeps" / "command_line.py", FOLIO / "sweeps" / "worker.py"}
    assert importers_of("hydra", "omegaconf") <= {*ENTRY_POINTS, *(FOLIO / "cli").glob("*.py"), *sweeps}


def test_only_searches_import_optuna() -> None:
    assert importers_of("optuna") == {FOLIO / "sweeps" / "search.py"}
    plugin = (SRC / "hydra_plugins" / "folio_sweeper.py").read_text()
    assert loaded_after(plugin, "hydra", "torch", "optuna", "joblib", "folio.sweeps.runner") == ["hydra"]


def test_only_the_server_imports_its_stack() -> None:
    assert {path.parent for path in importers_of("starlette", "uvicorn")} == {FOLIO / "serve"}


def test_only_training_and_its_processes_import_lightning() -> None:
    importers = {path for path in importers_of("lightning", "pytorch_lightning") if path in SOURCES}
    assert FOLIO / "training" / "module.py" in importers
    assert not {package_name(module_name(path)) for path in importers} & WITHOUT_LIGHTNING


def test_nothing_imports_transformers_and_only_the_formats_import_safetensors() -> None:
    assert not importers_of("transformers", "huggingface_hub")
    models = FOLIO / "models"
    assert importers_of("safetensors") == {models / "pretrained.py", models / "formats" / "folder.py"}


def test_only_what_needs_it_imports_the_library_tokenizers() -> None:
    importers = {path for path in SOURCES if any(is_in(name, ["tokenizers"]) for name in imported_modules(path))}
    folder = FOLIO / "data" / "tokenizers"
    assert importers == {folder / "bpe.py", folder / "huggingface.py", FOLIO / "export" / "tokenizer.py"}


def loaded_after(code: str, *packages: str) -> list[str]:
    """Return those of the packages that are loaded in a fresh Python after it has run the code."""
    check = f"import sys\n{code}\nprint(*(name for name in {packages!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def import_statements(path: Path, *, top_level_only: bool) -> str:
    modules = imported_modules(path, top_level_only=top_level_only)
    return "\n".join(f"import {module}" for module in sorted(modules))


@pytest.mark.parametrize("script", ["generate", "evaluate", "export", "serve"])
def test_scripts_that_use_a_trained_model_never_load_lightning(script: str) -> None:
    code = import_statements(ROOT / "scripts" / f"{script}.py", top_level_only=False)
    assert loaded_after(code, "torch", "lightning", "pytorch_lightning") == ["torch"]


def test_importing_folio_loads_nothing_and_loading_a_model_no_lightning() -> None:
    assert loaded_after("import folio; folio.FolioError", "torch", "hydra", "numpy", "pydantic", "yaml") == []
    assert loaded_after("import folio; folio.load, folio.train, folio.runs", "torch", "lightning", "matplotlib") == []
    code = "import folio.api.load, folio.api.loaded_run"
    assert loaded_after(code, "torch", "lightning", "pytorch_lightning", "hydra", "matplotlib") == ["torch"]


def test_generation_starts_without_what_only_training_needs() -> None:
    """These imports take seconds: sympy comes with torch's compiler, matplotlib with figures and with torchmetrics."""
    code = import_statements(ROOT / "scripts" / "generate.py", top_level_only=False)
    unneeded = ("torch._dynamo", "sympy", "torchmetrics", "matplotlib", "tensorboard", "rich.progress")
    assert loaded_after(code, "folio.generation.generate", *unneeded) == ["folio.generation.generate"]


def test_training_opens_prepared_data_without_what_preparing_needs() -> None:
    code = "import folio.cli.corpus\nfrom folio.config.data import CORPORA\n"
    code += "for section in CORPORA.values(): section.load_code()"
    unneeded = ("rich", "tiktoken", "pyarrow", "datasets", "torch")
    assert loaded_after(code, "folio.data.corpora.single_text", *unneeded) == ["folio.data.corpora.single_text"]


def test_a_report_needs_no_torch_and_loads_matplotlib_only_to_draw() -> None:
    code = import_statements(ROOT / "scripts" / "report.py", top_level_only=False)
    assert loaded_after(code, "folio.report", "torch", "matplotlib", "tensorboard") == ["folio.report"]


def test_arguments_are_checked_before_torch_is_loaded() -> None:
    """The top-level imports of an entry point are what it loads before it checks its arguments."""
    scripts = ("generate", "evaluate", "export", "figures", "prepare_data", "report", "serve")
    paths = [ROOT / "train.py", *(ROOT / "scripts" / f"{name}.py" for name in scripts)]
    code = "\n".join(import_statements(path, top_level_only=True) for path in paths)
    assert loaded_after(code, "folio.config.run", "torch", "lightning") == ["folio.config.run"]


def test_a_model_config_is_checked_without_torch() -> None:
    assert loaded_after("from folio.models import GPTConfig", "folio.models.transformer_config", "torch") == [
        "folio.models.transformer_config"
    ]


def test_the_model_needs_no_package_but_torch() -> None:
    code = """
for name in ("lightning", "hydra", "omegaconf", "pydantic", "tiktoken", "yaml", "rich", "typer", "matplotlib"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
from folio.models import GPT, GPTConfig
config = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
assert GPT(config)(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 65)
"""
    assert loaded_after(code, "folio.models.gpt") == ["folio.models.gpt"]
