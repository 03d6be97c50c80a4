"""Every public class of models and data shows in its docstring how it is used, and the example runs as written."""

import doctest
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import folio.data.batches
import folio.data.tokenizers
import folio.models

PACKAGES = (folio.models, folio.data.batches, folio.data.tokenizers)
MODULES = [
    *(f"{package.__name__}.{module.name}" for package in PACKAGES for module in pkgutil.iter_modules(package.__path__)),
    "folio.data.corpora.single_text",
    "folio.data.prepared",
    "folio.data.sharded_tokens",
    "folio.data.token_file",
    "folio.training.data_module",
]
"""The modules whose classes a user builds; the rest of `folio.data` prepares corpora for them."""


def public_classes(module: ModuleType) -> list[type]:
    """Return the classes that can be built: no exceptions, no interfaces."""
    return [
        kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and kind.__module__ == module.__name__
        and not name.startswith("_")
        and not inspect.isabstract(kind)
        and not issubclass(kind, Exception)
        and not getattr(kind, "_is_protocol", False)
    ]


@pytest.mark.parametrize("name", MODULES)
def test_every_class_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some examples write files
    module = import_module(name)
    for kind in public_classes(module):
        (example,) = doctest.DocTestFinder(recurse=False).find(kind, kind.__name__, module=module)
        assert example.examples, f"{kind.__name__} has no example"
        report: list[str] = []
        failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
        assert not failed, "".join(report)


def test_the_classes_are_found() -> None:
    found = {kind.__name__ for name in MODULES for kind in public_classes(import_module(name))}
    assert {"GPT", "Encoder", "EncoderDecoder", "TrainingWindows", "Batch", "CharTokenizer", "TokenDataModule"} <= found
