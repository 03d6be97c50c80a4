"""data=token_files: the token files of other projects are read as they are, and give the same ids as ours."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora import token_files
from folio.data.corpora.mixture import CorpusMixture, WeightedSource
from folio.data.corpora.single_text import TextFile
from folio.data.corpora.token_files import TokenFiles
from folio.data.prepared import PreparedData
from folio.data.sharded_tokens import ShardedTokens
from folio.data.token_file import map_tokens
from folio.runtime.errors import FolioError

IDS = np.random.default_rng(5).integers(0, 256, 5000)
TRAIN, VAL = IDS[:4500], IDS[4500:]


def write_nanogpt(path: Path, ids: np.ndarray) -> None:
    ids.astype("<u2").tofile(path)


def write_llmc(path: Path, ids: np.ndarray, magic: int = 20240520, version: int = 1, n_tokens: int = -1) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if n_tokens < 0 else n_tokens
    path.write_bytes(header.tobytes() + ids.astype("<u4" if magic == 20240801 else "<u2").tobytes())


def write_megatron(path: Path, ids: np.ndarray, code: int = 4, version: int = 1) -> None:
    """Three sequences, each a document."""
    dtype = {1: "|u1", 4: "<i4", 5: "<i8", 8: "<u2"}[code]
    path.write_bytes(ids.astype(dtype).tobytes())
    lengths = np.array([len(ids) // 3, len(ids) // 3, len(ids) - 2 * (len(ids) // 3)], "<i4")
    pointers = (np.cumsum(lengths) - lengths).astype("<i8") * np.dtype(dtype).itemsize
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", version, code, 3, 4)
    path.with_suffix(".idx").write_bytes(
        header + lengths.tobytes() + pointers.tobytes() + np.arange(4, dtype="<i8").tobytes()
    )


def open_files(path: Path | str, tokenizer: str = "byte", val_fraction: float = 0.1) -> PreparedData:
    data_dir = Path(path).parent / "data"
    return TokenFiles(path, val_fraction).prepare(choose_tokenizer(tokenizer), data_dir, log=print)


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "nanogpt": write_nanogpt,
    "llmc": write_llmc,
    "llmc_llama3": lambda path, ids: write_llmc(path, ids, 20240801, 7),
    **{f"megatron_{code}": lambda path, ids, code=code: write_megatron(path, ids, code) for code in (1, 4, 5, 8)},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_each_format_gives_the_ids_that_were_written(
    writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In two training shards and one validation file, whose windows may cross a boundary."""
    write = WRITERS[writer]
    write(tmp_path / "x_train_000000.bin", TRAIN[:2000])
    write(tmp_path / "x_train_000001.bin", TRAIN[2000:])
    write(tmp_path / "x_val_000000.bin", VAL)
    data = open_files(tmp_path)
    assert np.array_equal(data.train.tokens[: len(TRAIN)], TRAIN)
    assert np.array_equal(data.val.tokens[: len(VAL)], VAL)
    assert isinstance(data.train.tokens, ShardedTokens)
    starts = np.array([0, 1995, 2000, 4490])
    assert np.array_equal(data.train.tokens.windows(starts, 10), np.stack([TRAIN[s : s + 10] for s in starts]))
    assert (data.train.info.n_tokens, data.val.info.n_bytes) == (4500, 500)
    assert capsys.readouterr().out == "", "nothing is prepared"
    assert {path.suffix for path in tmp_path.iterdir()} <= {".bin", ".idx"}, "nothing is written"


def test_the_last_ids_are_for_validation_if_no_file_is(tmp_path: Path) -> None:
    write_llmc(tmp_path / "a.bin", IDS[:3000])
    write_llmc(tmp_path / "b.bin", IDS[3000:])
    data = open_files(tmp_path / "*.bin", val_fraction=0.5)
    assert np.array_equal(data.train.tokens[:9999], IDS[:2500])
    assert np.array_equal(data.val.tokens[:9999], IDS[2500:])


def test_bytes_are_those_of_the_text_and_its_end_has_none(tmp_path: Path, data_dir: Path) -> None:
    choice = choose_tokenizer("gpt2")
    tokenizer = choice.build(data_dir / "assets")
    text = "To be, or not to be: é!\n" * 50
    ids = np.append(tokenizer.encode(text), tokenizer.end_of_text)
    write_nanogpt(tmp_path / "train.bin", ids)
    write_nanogpt(tmp_path / "val.bin", ids)
    data = TokenFiles(str(tmp_path / "*.bin"), 0.1).prepare(choice, data_dir, log=print)
    assert data.val.info.n_bytes == len(text.encode())
    assert data.val.info.bits_per_byte(1.0) > 0


def test_a_large_split_is_sampled_and_all_of_it_is_checked_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_files, "LARGEST_HASHED_BYTES", 1000)
    monkeypatch.setattr(token_files, "BLOCK_TOKENS", 10)
    monkeypatch.setattr(token_files, "N_SAMPLED_BLOCKS", 5)
    wrong = TRAIN.copy()
    wrong[15] = 300
    write_nanogpt(tmp_path / "train.bin", wrong)
    write_nanogpt(tmp_path / "val.bin", VAL)
    assert abs(open_files(tmp_path).train.info.n_bytes - 4500) < 100
    with pytest.raises(FolioError, match=r"train.bin holds the id 300, and tokenizer=byte has 256 symbols"):
        TokenFiles(tmp_path, 0.1).prepare(choose_tokenizer("byte"), tmp_path, log=print, verify_all=True)


def test_a_mapped_part_of_a_file_is_sent_to_another_process_as_its_path(tmp_path: Path) -> None:
    write_llmc(tmp_path / "train.bin", TRAIN)
    part = map_tokens(tmp_path / "train.bin", "<u2", offset=1024 + 200, n_tokens=50)
    sent = pickle.dumps(part)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent), TRAIN[100:150])


def test_a_mixture_joins_files_of_one_type(tmp_path: Path) -> None:
    write_llmc(tmp_path / "a.bin", IDS)
    write_megatron(tmp_path / "b.bin", IDS, code=4)
    (tmp_path / "t.txt").write_text("To be, or not to be. " * 50)

    def mix(*sources: object) -> PreparedData:
        parts = tuple(WeightedSource(f"part {n}", 1.0, source) for n, source in enumerate(sources))  # type: ignore[arg-type]
        return CorpusMixture(parts).prepare(choose_tokenizer("byte"), tmp_path / "data", log=lambda line: None)

    text, files = TextFile(str(tmp_path / "t.txt")), TokenFiles(tmp_path / "a.bin", 0.1)
    assert mix(text, files).train.info.n_tokens == 4500 + 945
    with pytest.raises(FolioError, match=r"ids of part 1 are of type i4, and those of part 0 of type u2; join files"):
        mix(text, TokenFiles(tmp_path / "b.bin", 0.1))


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "names no .bin file; give a token file"),
    "an empty file": (lambda path: path.write_bytes(b""), "has 0 bytes, which are no whole number of uint16 ids"),
    "half an id": (lambda path: path.write_bytes(b"abc"), "has 3 bytes, which are no whole number of uint16 ids"),
    "another version": (lambda path: write_llmc(path, IDS, version=2), "is of version 2 of llm.c's format"),
    "ids missing": (lambda path: write_llmc(path, IDS, n_tokens=9000), "header says 9000 ids, which are 19024"),
    "a negative number": (
        lambda path: path.write_bytes(struct.pack("<3i", 20240520, 1, -5) + bytes(2000)),
        "its header says -5 ids",
    ),
    "half a header": (lambda path: path.write_bytes(struct.pack("<i", 20240520)), "ends within its header"),
    "an id of another tokenizer": (
        lambda path: write_nanogpt(path, np.full(100, 50000)),
        "holds the id 50000, and tokenizer=byte has 256 symbols; name the one that made it",
    ),
    "a negative id": (lambda path: write_megatron(path, IDS - 3), "holds the id -3"),
    "no index": (
        lambda path: (write_nanogpt(path, IDS), path.with_suffix(".idx").write_bytes(b"PK" + bytes(99))),
        "is no index of Megatron's",
    ),
    "a later Megatron": (lambda path: write_megatron(path, IDS, version=2), "is of version 2; only version 1"),
    "floats": (
        lambda path: (
            write_megatron(path, IDS),
            damage(path.with_suffix(".idx"), lambda data: data[:17] + b"\x07" + data[18:]),
        ),
        "says type 7, which holds no ids",
    ),
    "an index that was cut short": (
        lambda path: (write_megatron(path, IDS), damage(path.with_suffix(".idx"), lambda data: data[:60])),
        "has 60 bytes, and its 3 sequences need 102",
    ),
    "a number of sequences that would exhaust memory": (
        lambda path: (
            write_megatron(path, IDS),
            damage(path.with_suffix(".idx"), lambda data: data[:18] + b"\xff" * 8 + data[26:]),
        ),
        "sequences need",
    ),
    "another number of ids": (
        lambda path: (write_megatron(path, IDS), damage(path, lambda data: data[:-4])),
        "says 5000 ids of type i4; they differ",
    ),
    "one id": (lambda path: write_nanogpt(path, IDS[:1]), "has too few ids for the splits"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_contradicts_its_format_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    write, message = BAD[case]
    write(tmp_path / "x.bin")
    with pytest.raises(FolioError) as error:
        open_files(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_splits_and_formats_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_nanogpt(tmp_path / "val.bin", VAL)
    with pytest.raises(FolioError, match=r"val.bin is for validation, and no name contains `train`"):
        open_files(tmp_path)
    write_nanogpt(tmp_path / "train_0.bin", TRAIN)
    write_megatron(tmp_path / "train_1.bin", TRAIN)
    with pytest.raises(
        FolioError, match=r"train_1.bin is of Megatron's format \(int32\), and .*train_0.bin of nanoGPT"
    ):
        open_files(tmp_path)
    with pytest.raises(FolioError, match=r"tokenizer=char learns its vocabulary from a text.* such as tokenizer=gpt2"):
        open_files(tmp_path, "char")
