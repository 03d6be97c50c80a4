"""`corpus.json`: what the shards of a prepared corpus hold."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from folio.data.token_file import FORMAT as TOKEN_FORMAT
from folio.data.token_file import TokenFileError, TokenFileInfo, dataclass_from_json, token_dtype
from folio.runtime.files import write_atomically
from folio.runtime.untrusted import MIB, UntrustedFileError, read_json_object

FORMAT = 1
MANIFEST = "corpus.json"
MAX_MANIFEST_BYTES = 32 * MIB
"""Limit for corpus.json: room for the checksums of 400,000 shards."""

TRAINING_SPLITS = ("train", "val")
"""The splits of every corpus, which training opens. A corpus may also have `test`, which only an evaluation opens."""


@dataclass(frozen=True)
class SplitInfo:
    """All shards of a split together; the fields mean the same as in TokenFileInfo."""

    n_documents: int
    n_tokens: int
    n_bytes: int
    n_unknown: int
    spelling_bits: float
    shard_sha256: list[str]
    n_prompt_tokens: int
    n_prompt_bytes: int
    n_prompt_unknown: int
    prompt_spelling_bits: float
    index_sha256: list[str]
    """Checksums of the files of the DocumentIndex; none if an earlier version prepared the corpus."""


OLD_SPLIT = {
    "n_prompt_tokens": 0,
    "n_prompt_bytes": 0,
    "n_prompt_unknown": 0,
    "prompt_spelling_bits": 0.0,
    "index_sha256": [],
}
"""Fields of a split that manifests of earlier versions lack."""


@dataclass(frozen=True)
class Manifest:
    """The content of corpus.json. Every shard of a split except the last has `shard_tokens` tokens."""

    format: int
    dtype: str
    vocab_size: int
    tokenizer: str
    tokenizer_fingerprint: str
    plan: str
    """Digest of the files, the options and the tokenizer that the shards were made from."""
    content_sha256: str
    """Digest of all documents in order, whatever files they were in."""
    n_duplicates: int
    shard_tokens: int
    has_prompts: bool
    """Whether each document is a prompt and a completion."""
    train: SplitInfo
    val: SplitInfo
    test: SplitInfo | None

    @property
    def splits(self) -> dict[str, SplitInfo]:
        """All splits by name."""
        splits = {"train": self.train, "val": self.val}
        return splits if self.test is None else splits | {"test": self.test}

    def split(self, name: str) -> SplitInfo:
        return self.splits[name]

    def shard_sizes(self, split: str) -> list[int]:
        """Return the number of tokens in each shard."""
        n_full, rest = divmod(self.split(split).n_tokens, self.shard_tokens)
        return [self.shard_tokens] * n_full + [rest] * (rest > 0)

    def shard_paths(self, folder: Path) -> list[Path]:
        """Return the files of all splits."""
        return [
            shard_path(folder, split, number) for split in self.splits for number in range(len(self.shard_sizes(split)))
        ]

    def token_file_info(self, split: str) -> TokenFileInfo:
        """Describe the split as the sidecar of a single token file would."""
        info = self.split(split)
        return TokenFileInfo(
            format=TOKEN_FORMAT,
            dtype=self.dtype,
            vocab_size=self.vocab_size,
            tokenizer=self.tokenizer,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            split=split,
            n_tokens=info.n_tokens,
            n_unknown=info.n_unknown,
            n_bytes=info.n_bytes,
            spelling_bits=info.spelling_bits,
            source_sha256=self.content_sha256,
            tokens_sha256=hashlib.sha256("".join(info.shard_sha256).encode()).hexdigest(),
        )

    def completions_info(self, split: str) -> TokenFileInfo:
        """Describe the split without its prompts."""
        info = self.split(split)
        return replace(
            self.token_file_info(split),
            n_tokens=info.n_tokens - info.n_prompt_tokens,
            n_bytes=info.n_bytes - info.n_prompt_bytes,
            n_unknown=info.n_unknown - info.n_prompt_unknown,
            spelling_bits=info.spelling_bits - info.prompt_spelling_bits,
        )


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05}.bin"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write corpus.json, which makes the folder valid."""
    fields = asdict(manifest)
    if manifest.test is None:  # the file stays what it was before there were test splits
        del fields["test"]
    write_atomically(folder / MANIFEST, (json.dumps(fields, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Raises: TokenFileError if it is missing or damaged."""
    path = folder / MANIFEST
    try:
        fields = read_json_object(path, MAX_MANIFEST_BYTES)
        names = [*TRAINING_SPLITS, *(["test"] if fields.get("test") is not None else [])]
        splits = {split: dataclass_from_json(SplitInfo, OLD_SPLIT | fields[split]) for split in names}
        manifest = dataclass_from_json(Manifest, {"has_prompts": False, "test": None} | fields | splits)
    except FileNotFoundError:
        raise TokenFileError(path, "is missing") from None
    except UntrustedFileError as error:
        raise TokenFileError(path, error.problem) from None
    except (KeyError, TypeError):
        raise TokenFileError(path, f"is not a manifest of format {FORMAT}") from None
    if not _is_consistent(manifest):
        raise TokenFileError(path, f"is not a manifest of format {FORMAT}")
    return manifest


def _is_consistent(manifest: Manifest) -> bool:
    """Check the numbers before a list of shards is made of them, so that wrong ones cannot exhaust memory."""
    return (
        manifest.format == FORMAT
        and manifest.dtype == token_dtype(manifest.vocab_size)
        and manifest.shard_tokens > 0
        and all(
            split.n_tokens > 0
            and split.n_bytes > 0
            and 0 <= split.n_unknown <= split.n_tokens
            and split.spelling_bits >= 0.0
            and 0 <= split.n_prompt_tokens < split.n_tokens
            and 0 <= split.n_prompt_bytes < split.n_bytes
            and 0.0 <= split.prompt_spelling_bits <= split.spelling_bits
            and all(isinstance(sha256, str) for sha256 in split.shard_sha256 + split.index_sha256)
            and len(split.index_sha256) in (0, 1 + manifest.has_prompts)
            and len(split.shard_sha256) == -(-split.n_tokens // manifest.shard_tokens)
            for split in manifest.splits.values()
        )
    )
