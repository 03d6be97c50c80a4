"""data=prepared: a folder that was prepared before, on this machine or another."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from folio.data.corpora.document_corpus import open_document_folder
from folio.data.corpora.manifest import MANIFEST
from folio.data.corpora.preparation import NotReusableError, OtherTokenizerError, explain_disk_errors
from folio.data.corpora.progress import Log
from folio.data.corpora.single_text import open_text_folder
from folio.data.prepared import PreparedData
from folio.data.tokenizers.base import LearnedTokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.runtime.errors import FolioError


@dataclass(frozen=True)
class PreparedFolder:
    """A prepared folder, wherever it is and whatever became of the text."""

    path: str | Path

    def prepare(self, tokenizer: TokenizerChoice, data_dir: Path, log: Log, verify_all: bool = False) -> PreparedData:
        """Open the folder. Raises: FolioError if it is not whole, or of another tokenizer."""
        folder = Path(self.path)
        try:
            with explain_disk_errors(data_dir):
                if (folder / MANIFEST).exists():
                    data = open_document_folder(folder, tokenizer)[1]
                else:
                    data = open_text_folder(folder, tokenizer)
        except OtherTokenizerError as error:
            if error.found != tokenizer.name:
                problem = f"tokenizer={error.found}, not {tokenizer.name}; add tokenizer={error.found}"
            else:
                problem = (
                    f"another vocabulary of tokenizer={error.found} than the other parts have; prepare it together "
                    "with them, or use a tokenizer that does not learn from its text"
                )
            raise FolioError(f"data.path={folder} was prepared with {problem}") from None
        except NotReusableError as error:
            raise FolioError(
                f"data.path={folder} is not a prepared folder that can be used: {error}; give one that "
                "scripts/prepare_data.py has named at its end"
            ) from None
        return data

    def identity(self, data_dir: Path) -> str:
        """Raises: FolioError, since no vocabulary can be learned from a folder that already has one."""
        raise FolioError(
            f"data.parts: {self.path} already has a vocabulary, and this tokenizer learns one from all parts; give "
            "its text instead, or use a tokenizer that does not learn, such as tokenizer=gpt2"
        )

    def count_units(self, kind: type[LearnedTokenizer], data_dir: Path, log: Log) -> Counter[str]:
        """Raises: FolioError, as `identity` does."""
        self.identity(data_dir)
        return Counter()
