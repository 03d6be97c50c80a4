"""Export runs as one HTML page: check what can be checked, then load, measure and write."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from folio.cli.corpus import check_data, reopen_data, with_data_path
from folio.cli.resume import check_same_text
from folio.export.page.architecture import PRECISIONS, Precision, check_page, check_page_size
from folio.generation.prompts import MASK, check_prompt, default_prompt
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder, expand_home

if TYPE_CHECKING:
    from folio.export.page.page import PageModel
    from folio.runs.checkpoints import LoadedCheckpoint


@dataclass(frozen=True)
class PageRequest:
    """The options of `scripts/export.py --format page`."""

    run: str
    page: Path
    checkpoints: Sequence[str] = ("best",)
    beside: Sequence[str] = ()
    """Further runs, shown side by side."""
    weights: Precision = "fp32"
    force: bool = False
    output_dir: Path = field(default_factory=lambda: Path("outputs"))
    data_dir: Path | None = None
    """Folder of prepared data, on which rounded weights are measured."""
    data_path: str | None = None
    """Where the text of data.path lies now, if it has moved."""


def export_page(request: PageRequest) -> list[str]:
    """Write the page, and return the lines that say what it holds. Raises: FolioError."""
    check_destination(request.page, request.force)
    if request.weights not in PRECISIONS:
        raise FolioError(f"--weights={request.weights} is not one of {', '.join(PRECISIONS)}")
    paths = [
        find_checkpoint(run, request.output_dir, name)
        for run in (request.run, *request.beside)
        for name in request.checkpoints
    ]
    for path in paths:
        if config := config_beside(path):
            check_page(config.transformer_config(config.model.vocab_size or 0), config.tokenizer.name)

    # Only now torch, whose import takes seconds.
    from folio.export.page.page import write_page

    models: list[PageModel] = []
    for path in paths:
        models.append(load_page_model(path, request))
        check_page_size(sum(model.n_parameters for model in models), request.weights)
    try:
        n_bytes = write_page(request.page, with_distinct_names(models, paths))
    except OSError as error:
        raise FolioError(f"DEST={request.page} cannot be written ({error.strerror}); name another file") from None
    lines = [f"checkpoint       {path}, step {model.step}" for path, model in zip(paths, models, strict=True)]
    for model in models:
        if model.rounding:
            before, after = model.rounding["before"], model.rounding["after"]
            lines.append(f"{f'loss in {model.precision}':<16} {after:.6f} nats, and {before:.6f} in fp32")
    lines.append(
        f"written          {request.page}, {n_bytes / 2**20:.1f} MiB: open it in a browser; it needs no network"
    )
    return lines


def check_destination(page: Path, force: bool) -> None:
    """Raises: FolioError unless the page can be written."""
    if page.is_dir():
        raise FolioError(f"DEST={page} is a folder, and a page is a file; name one, as in {page / 'page.html'}")
    if page.exists() and not force:
        raise FolioError(f"DEST={page} exists; name another file, or give --force to replace it")
    check_output_folder(page.parent, "DEST", "name another file")


def load_page_model(path: Path, request: PageRequest) -> "PageModel":
    """Load a checkpoint, and round its weights if that was asked for. Raises: FolioError."""
    from folio.export.page.page import PageModel
    from folio.export.page.weights import in_page_form, pack_weights
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, "cpu")
    if request.data_path is not None:
        trained = replace(trained, config=with_data_path(trained.config, expand_home(request.data_path)))
    check_page(trained.model.config, trained.tokenizer.name)
    check_page_size(trained.model.n_parameters, request.weights)
    trained = replace(trained, model=in_page_form(trained.model))
    measure = None if request.weights == "fp32" else loss_measure(trained, path, request)
    before = measure() if measure else None
    weights = pack_weights(trained.model, request.weights)
    return PageModel(
        run=trained.config.run_name,
        step=trained.step,
        config=trained.model.config,
        tokenizer=trained.tokenizer,
        precision=request.weights,
        weights=weights,
        n_parameters=trained.model.n_parameters,
        prompt=page_prompt(trained),
        val=trained.val,
        rounding={"before": before, "after": measure()} if measure and before is not None else {},
    )


def loss_measure(trained: "LoadedCheckpoint", path: Path, request: PageRequest) -> Callable[[], float]:
    """Return a function that measures the model on its validation split. Raises: FolioError without the data."""
    import torch

    from folio.objectives.evaluation import evaluate
    from folio.objectives.objective import build_objective

    try:
        data = reopen_data(trained, request.data_dir)
    except FolioError as error:
        raise FolioError(f"--weights={request.weights} is measured on the validation text, but {error}") from None
    if request.data_path is not None:
        check_same_text(path.parent.parent, data.train.info.source_sha256, f"--data-path={request.data_path}")
    check_data(trained.config, data)
    validation = build_objective(trained.config, data).validation(data.val)
    return lambda: evaluate(trained.model, validation, torch.device("cpu"))["loss_nats"]


def page_prompt(trained: "LoadedCheckpoint") -> str:
    """Return the text that the page begins with: that of the run's samples, or one that suits the model."""
    config, tokenizer, prompt = trained.model.config, trained.tokenizer, trained.config.callbacks.samples.prompt
    candidates = [prompt, f"{prompt} {MASK}", MASK, default_prompt(config.family, tokenizer, prompt)]
    for candidate in candidates:
        with suppress(FolioError):
            check_prompt(config, tokenizer, candidate)
            return candidate
    return prompt


def with_distinct_names(models: "list[PageModel]", paths: Sequence[Path]) -> "list[PageModel]":
    """Return the models, with the names of their folders if two runs have one name."""
    folders = {path.absolute().parent.parent for path in paths}
    if len(folders) == len({model.run for model in models}):
        return models
    return [replace(model, run=path.absolute().parent.parent.name) for model, path in zip(models, paths, strict=True)]
