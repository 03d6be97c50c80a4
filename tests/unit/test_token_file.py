"""A token file returns what was written, or says what is wrong with it."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.data import token_file
from folio.data.token_file import MappedTokens, TokenFile, TokenFileError, TokenFileInfo, write_token_file
from folio.data.tokenizers.base import UnknownTokens
from folio.runtime import files
from folio.runtime.errors import FolioError


def write(path: Path, tokens: Any, vocab_size: int = 100, **changes: Any) -> TokenFileInfo:
    fields: dict[str, Any] = {
        "tokenizer": "char",
        "tokenizer_fingerprint": "f" * 64,
        "split": "train",
        "n_bytes": 3,
        "source_sha256": "0" * 64,
    }
    pieces = [(np.asarray(tokens), UnknownTokens(1, 6.0))]
    return write_token_file(path, pieces, vocab_size=vocab_size, **(fields | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "train.bin", [5, 0, 99, 7])
    return tmp_path / "train.bin"


def test_tokens_are_read_back_read_only_with_their_sidecar(path: Path) -> None:
    file = TokenFile.open(path)
    assert file.tokens.tolist() == [5, 0, 99, 7]
    assert not file.tokens.flags.writeable
    assert (file.info.n_tokens, file.info.n_bytes, file.info.tokenizer) == (4, 3, "char")


def test_bits_per_byte_are_those_of_the_tokens_and_of_the_spelling(info_of: Callable[..., TokenFileInfo]) -> None:
    info = info_of(n_tokens=8, n_unknown=2, n_bytes=40, spelling_bits=16.0)
    assert info.bits_per_byte(3 * math.log(2)) == pytest.approx((8 * 3 + 16) / 40)
    assert info.share_unknown == 0.25


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (100_277, "<u4")])
def test_the_largest_id_of_a_vocabulary_does_not_wrap(vocab_size: int, dtype: str, tmp_path: Path) -> None:
    info = write(tmp_path / "train.bin", [0, vocab_size - 1], vocab_size)
    assert info.dtype == dtype
    assert TokenFile.open(tmp_path / "train.bin").tokens.tolist() == [0, vocab_size - 1]


@given(st.lists(st.integers(0, 2**20), min_size=1), st.sampled_from(["<i4", "<i8", "<u4", ">i8"]))
def test_any_tokens_are_read_back(tmp_path_factory: pytest.TempPathFactory, tokens: list[int], dtype: str) -> None:
    path = tmp_path_factory.mktemp("tokens") / "train.bin"
    write(path, np.array(tokens, dtype=dtype), 2**20 + 1)
    assert TokenFile.open(path).tokens.tolist() == tokens


@pytest.mark.parametrize("tokens", [[-1, 3], [100], [0, 10**9]])
def test_ids_outside_the_vocabulary_are_not_written(tokens: list[int], tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="vocab_size=100"):
        write(tmp_path / "train.bin", tokens)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="val split holds no tokens"):
        write(tmp_path / "val.bin", np.empty(0, dtype=np.int64), split="val")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def alter_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def remove_sidecar(path: Path) -> None:
    path.with_suffix(".json").unlink()


def spoil_sidecar(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def change_sidecar(**changes: Any) -> Any:
    def change(path: Path) -> None:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (cut, "has 6 bytes, but its sidecar says 8"),
        (alter_one_byte, "was altered"),
        (remove, "is missing"),
        (remove_sidecar, "has no sidecar"),
        (spoil_sidecar, "not JSON"),
        (change_sidecar(format=99), "not of format"),
        (change_sidecar(dtype="<f4"), "not of format"),
        (change_sidecar(n_tokens="4"), "not of format"),
        (change_sidecar(n_tokens=-4), "not of format"),
        (change_sidecar(surprise=1), "not of format"),
        (change_sidecar(n_unknown=-1), "not of format"),
        (change_sidecar(n_unknown=5), "not of format"),
        (change_sidecar(n_bytes=0), "not of format"),
        (change_sidecar(spelling_bits=-0.5), "not of format"),
        (change_sidecar(spelling_bits=-math.inf), "not of format"),
        (change_sidecar(spelling_bits=math.nan), "not of format"),
        (change_sidecar(spelling_bits=6), "not of format"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "not of format"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault_and_the_remedy(damage: Any, fault: str, path: Path) -> None:
    damage(path)
    with pytest.raises(TokenFileError, match=fault) as caught:
        TokenFile.open(path)
    assert str(path) in str(caught.value)
    assert "prepare the data again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tokens_of_another_file_are_noticed(path: Path) -> None:
    write(path.with_name("val.bin"), [1, 2, 3, 4])
    path.with_name("val.bin").replace(path)
    with pytest.raises(TokenFileError, match="altered"):
        TokenFile.open(path)


def test_a_large_file_is_checked_only_by_its_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "LARGEST_HASHED_BYTES", 4)
    alter_one_byte(path)
    TokenFile.open(path)
    cut(path)
    with pytest.raises(TokenFileError, match="bytes"):
        TokenFile.open(path)


def test_a_crash_between_tokens_and_sidecar_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = files.os.replace

    def replace_then_crash(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", replace_then_crash)
    with pytest.raises(KeyboardInterrupt):
        write(path, [1, 2, 3, 4])
    with pytest.raises(TokenFileError, match="altered"):
        TokenFile.open(path)
    assert sorted(each.name for each in path.parent.iterdir()) == ["train.bin", "train.json"]


def test_pickled_tokens_are_mapped_again_and_not_copied(path: Path) -> None:
    np.zeros(100_000, dtype="<u2").tofile(path.with_name("large.bin"))
    tokens = MappedTokens(path.with_name("large.bin"), dtype="<u2", mode="r")
    data = pickle.dumps(tokens)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert isinstance(copy, MappedTokens)
    assert copy.shape == tokens.shape
    assert not copy.flags.writeable


def test_a_pickled_slice_holds_its_own_tokens(path: Path) -> None:
    assert pickle.loads(pickle.dumps(TokenFile.open(path).tokens[1:3])).tolist() == [0, 99]
