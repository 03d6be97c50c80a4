"""Export to a folder that transformers opens: config.json, model.safetensors, the tokenizer and a model card."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from folio.config.model import OPTION_KEYS
from folio.config.run import RunConfig
from folio.models.formats.choice import FormatPlan, NoFormatError, choose_format
from folio.models.formats.fields import Problem, plain
from folio.models.formats.format import Format
from folio.models.formats.table import FORMATS
from folio.models.transformer_config import TransformerConfig
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder, draft_folder

if TYPE_CHECKING:
    from folio.runs.checkpoints import LoadedCheckpoint

CONFIG, CARD = "config.json", "README.md"


def check_destination(folder: Path, force: bool) -> None:
    """Raises: FolioError if writing there would mix with, or replace, files that exist."""
    if folder.exists() and not folder.is_dir():
        raise FolioError(f"DEST={folder} is a file; name a new folder")
    if folder.is_dir() and not force and any(folder.iterdir()):
        raise FolioError(f"DEST={folder} is not empty; name a new folder, or replace the model in it with --force")
    check_output_folder(folder, "DEST")


def check_run(config: RunConfig) -> None:
    """Raises: FolioError if no format can hold the model of a run."""
    plan_export(config.transformer_config(config.model.vocab_size or 1))


def plan_export(
    config: TransformerConfig, formats: Iterable[Format] = FORMATS.values(), reader: str = "transformers"
) -> FormatPlan:
    """Return how to write a model. Raises: FolioError naming the option in the way, and the recipe that avoids it."""
    try:
        return choose_format(config, formats)
    except NoFormatError as error:
        first, recipe = error.problems[0], " ".join(_word(problem, problem.needed) for problem in error.problems)
        raise FolioError(
            f"{_word(first, first.value)} stands in the way: nothing that {reader} reads has it; "
            f"the nearest is {error.format.name}: train with {recipe}"
        ) from None


def _word(problem: Problem, value: object) -> str:
    """Return an option as the word of a command line that sets it."""
    return f"{OPTION_KEYS.get(problem.option, problem.option)}={plain(value)}"


def export(trained: "LoadedCheckpoint", checkpoint: Path, folder: Path, force: bool) -> str:
    """Write the folder, verify what is in it, and return what to print. Raises: FolioError."""
    from folio.export.model_card import model_card
    from folio.export.tokenizer import export_tokenizer
    from folio.export.verification import verify
    from folio.models.gpt import GPT
    from folio.models.pretrained import write_pretrained

    model, tokenizer = trained.model, trained.tokenizer
    plan = plan_export(model.config)
    assert isinstance(model, GPT)
    try:
        with draft_folder(folder, last=CONFIG, overwrite=force) as draft:
            write_pretrained(model, plan, draft, tokenizer.end_of_text)
            lost = export_tokenizer(tokenizer, draft, model.config.context_length)
            verified = verify(model, draft, tokenizer.vocab_size)
            (draft / CARD).write_text(model_card(trained, plan, verified, folder.resolve().name), encoding="utf-8")
            files = sorted(path.name for path in draft.iterdir())
    except OSError as error:
        raise FolioError(f"DEST={folder}: cannot write there ({error.strerror}); name another folder") from None
    steps, notes = ("".join(f"\n{'':<16} {line}" for line in lines) for lines in (plan.descriptions, lost))
    return f"""\
checkpoint       {checkpoint}, step {trained.step}
format           {plan.format.architecture}, {model.n_parameters:,} parameters, float32{steps}
tokenizer        {tokenizer.name}, {tokenizer.vocab_size:,} symbols{notes}
verified         {verified}
written          {folder}: {", ".join(files)}
load it with

    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
    model = AutoModelForCausalLM.from_pretrained({str(folder)!r})"""
