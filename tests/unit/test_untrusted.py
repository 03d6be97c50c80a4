"""Files of unknown origin are plain data of bounded size, or one line that says why not."""

import io
import json
import os
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.runtime.pickles import UnsafePickleError, check_pickle
from folio.runtime.plain_yaml import parse_yaml, read_yaml
from folio.runtime.torch_files import check_torch_file, load_torch_file
from folio.runtime.untrusted import (
    UntrustedFileError,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    shown,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def assert_one_line(error: pytest.ExceptionInfo[UntrustedFileError], path: Path) -> None:
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "a FIFO": make_fifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    NOT_FILES[kind](path)
    for read in (read_bytes, read_text, read_json, read_yaml):
        with pytest.raises(UntrustedFileError, match=kind) as error:
            read(path)
        assert_one_line(error, path)


def test_a_file_above_its_limit_is_refused_and_one_at_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert len(read_bytes(path, max_bytes=100)) == 100
    with pytest.raises(UntrustedFileError, match="100 bytes, and Folio reads at most 99") as error:
        read_bytes(path, max_bytes=99)
    assert_one_line(error, path)


def test_a_file_that_reports_no_size_is_still_bounded() -> None:
    with pytest.raises(UntrustedFileError, match="more than 10 bytes"):
        read_bytes(Path("/proc/self/status"), max_bytes=10)


def test_a_link_to_a_regular_file_is_followed_and_a_missing_file_is_the_system_s_error(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert read_text(tmp_path / "link") == "text"
    with pytest.raises(FileNotFoundError), open_regular(tmp_path / "absent"):
        pass


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(path) == {}
    path.write_bytes(b"\xff{}")
    with pytest.raises(UntrustedFileError, match=r"not UTF-8 text \(byte 0\)"):
        read_json(path)


@given(PLAIN)
def test_plain_values_are_read_as_they_were_written(value: Any) -> None:
    path = Path("file")
    assert parse_json(json.dumps(value), path) == value
    assert parse_yaml(yaml.safe_dump(value), path) == value


BOMBS = {
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(40)),
    "itself": "a: &a [*a]",
    "deep flow": "[" * 5000,
    "deep blocks": "".join(" " * n + "a:\n" for n in range(400)),
    "digits": "a: " + "9" * 5000,
    "tag": "a: !!python/object/apply:os.system [echo]",
    "set": "!!set",
    "open": "a: [1, 2",
    "keys": "".join(f"k{n}: {n}\n" for n in range(20_000)),
    "colons": "a: b: c",
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_that_is_not_plain_or_would_exhaust_the_machine_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[name])
    if name == "set":  # an empty set without a value is no mapping
        path.write_text("!!set [a]")
    with pytest.raises(UntrustedFileError) as error:
        read_yaml(path)
    assert_one_line(error, path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 5000,
        "9" * 5000,
        "-" + "9" * 401,
        "{",
        "",
        "[" * 101 + "]" * 101,
        "[" + "[]," * 1_000_000,
    ],
    ids=lambda text: repr(text[:9]),
)
def test_json_that_is_broken_or_would_exhaust_the_machine_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(UntrustedFileError) as error:
        read_json(path)
    assert_one_line(error, path)


@given(st.binary(max_size=300))
def test_any_bytes_are_plain_values_or_one_line(content: bytes) -> None:
    path = Path("file")
    text = content.decode("utf-8", "replace")
    for parse in (parse_json, parse_yaml):
        with suppress(UntrustedFileError):
            parse(text, path)


def test_an_untrusted_value_is_shown_short_however_large_it_is() -> None:
    nested: list[Any] = ["x"]
    for _ in range(60):
        nested = [nested, nested]  # 2^60 leaves
    assert len(shown(nested)) <= 203
    assert len(shown("x" * 10_000)) <= 203


def structure_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


def test_what_torch_saves_of_plain_values_and_tensors_passes(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): torch.ones(3, 2).to(dtype) for dtype in dtypes}
    plain = {"n": 3, "big": 2**70, "x": 0.5, "no": None, "list": [1, "ä"], "pair": (1, True), "dtype": torch.float32}
    plain |= {"bytes": b"\0\xff", "order": OrderedDict(a=1)}
    torch.save({"state_dict": tensors, "parameter": torch.nn.Parameter(torch.ones(2)), **plain}, path)
    check_pickle(structure_of(path), path.stat().st_size)


class Reduced:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS: dict[str, Any] = {
    "bytearray": Reduced(bytearray, 2**33),
    "system": Reduced(os.system, "true"),
    "eval": Reduced(eval, "1"),
    "counter": Reduced(__import__("collections").Counter),
    "range": Reduced(range, 3),
}


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_anything_else_is_refused(name: str, protocol: int) -> None:
    with pytest.raises(UnsafePickleError):
        check_pickle(pickle.dumps({"folio": PAYLOADS[name]}, protocol), 10**6)


def test_a_pickle_that_allocates_by_an_opcode_is_refused() -> None:
    for truncated in (b"", b"x."):
        with pytest.raises(UnsafePickleError):
            check_pickle(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + truncated, 100)


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(torch.ones(1000), path)
    check_pickle(structure_of(path), 4000)
    with pytest.raises(UnsafePickleError, match="larger than the file"):
        check_pickle(structure_of(path), 3999)


@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_a_pickle_are_refused_or_inert(data: bytes) -> None:
    for n_pickles in (1, 5):
        with suppress(UnsafePickleError):
            check_pickle(data, 1000, n_pickles=n_pickles)


def tensor_call(*arguments: bytes) -> bytes:
    """Return a pickle of a tensor: of 4 float32 values under the key 0, with these arguments behind its storage."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"".join(arguments) + b"tR."


NO_HOOKS = b"\x89ccollections\nOrderedDict\n)R"
ENCODE = b"c_codecs\nencode\nq\0X\x40\0\0\0" + 64 * b"x" + b"q\x01X\x06\0\0\0latin1q\x02"

HARMFUL: dict[str, bytes] = {
    "a huge number": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little"),
    "nested tuples as a key": b"\x80\x02}" + b")" + b"q\0h\0\x86" * 200 + b"Ns.",
    "a deep tuple as a key": b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns.",
    "a text encoded often": b"\x80\x02" + ENCODE + b"h\0h\x01h\x02\x86R" * 200_000 + b".",
    "a dictionary copied often": b"\x80\x02ccollections\nOrderedDict\nq\0](NNe\x85R.",
    "millions of dictionaries": b"\x80\x02" + b"}" * 2_100_000 + b".",
    "a text cut short": b"\x80\x02X\xff\xff\xff\x7fx.",
    "attributes of a list": b"\x80\x02]}b.",
    "a number in place of a method": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb.",
    "another protocol": b"\x80\x04N.",
    "text that two encodings read": b"\x80\x02U\x01\xff.",
    "items of a list": b"\x80\x02]NNs.",
    "a stride of 0": tensor_call(b"K\0", b"J\0\0\0\x10\x85", b"K\0\x85", NO_HOOKS),
    "a negative stride": tensor_call(b"K\0", b"K\x02\x85", b"J\xff\xff\xff\xff\x85", NO_HOOKS),
    "a negative offset": tensor_call(b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85", NO_HOOKS),
    "an offset beyond the end": tensor_call(b"K\x03", b"K\x02\x85", b"K\x01\x85", NO_HOOKS),
    "a shape without strides": tensor_call(b"K\0", b"K\x02\x85", b")", NO_HOOKS),
    "metadata": tensor_call(b"K\0", b"K\x02\x85", b"K\x01\x85", NO_HOOKS, b"}"),
    "values of thousands of tensors": b"\x80\x02("
    + 9 * tensor_call(b"K\0", b"K\x04\x85", b"K\x01\x85", NO_HOOKS)[2:-1]
    + b"t.",
    "a frame": b"\x80\x04\x95" + (2**62).to_bytes(8, "little"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_pickle_that_makes_much_of_little_is_refused(name: str) -> None:
    check_pickle(tensor_call(b"K\0", b"K\x02\x85", b"K\x02\x85", NO_HOOKS), 16)  # a tensor that is none of these
    tied = tensor_call(b"K\0", b"K\x04\x85", b"K\x01\x85", NO_HOOKS)[2:-1]
    check_pickle(b"\x80\x02(" + 8 * tied + b"t.", 16)
    with pytest.raises(UnsafePickleError) as error:
        check_pickle(HARMFUL[name], 10**7)
    assert "\n" not in str(error.value)


def rewrite(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile, list[str]], None]) -> None:
    """Write a torch archive again with the changes of `change(old, new, names)`."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".new"), "w") as new:
        change(old, new, old.namelist())
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("kind", ["short", "missing", "twice", "comment", "behind", "packed", "no structure"])
def test_an_archive_that_torch_save_does_not_write_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"x": torch.ones(1000)}, path)
    assert check_torch_file(path)

    def change(old: zipfile.ZipFile, new: zipfile.ZipFile, names: list[str]) -> None:
        for name in names:
            data = old.read(name)
            if name.endswith("data/0"):
                data = data[:8] if kind == "short" else data
                if kind == "missing":
                    continue
            if kind == "no structure" and name.endswith("data.pkl"):
                continue
            new.writestr(name, data, zipfile.ZIP_DEFLATED if kind == "packed" else None)
            if kind == "twice" and name.endswith("data.pkl"):
                new.writestr(name.upper(), data)
        if kind == "comment":
            new.comment = b"x"

    rewrite(path, change)
    if kind == "behind":
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"^.+$"):
        check_torch_file(path)


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_changed_torch_file_is_read_or_refused_in_one_line(position: int, put: bytes, zipped: bool) -> None:
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(3), "n": 1}, buffer, _use_new_zipfile_serialization=zipped)
    data = bytearray(buffer.getvalue())
    position %= len(data)
    data[position : position + len(put)] = put
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        message = ""
        try:
            load_torch_file(Path(file.name), legacy=True)
        except ValueError as error:
            message = str(error)
        assert "\n" not in message
        assert "Weights only" not in message


def test_the_advice_of_torch_to_run_the_code_of_a_file_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.pt"
    torch.save({"x": Reduced(range, 3)}, path)
    monkeypatch.setattr("folio.runtime.torch_files.check_torch_file", lambda path, legacy: True)
    with pytest.raises(ValueError, match=r"^UnpicklingError$"):
        load_torch_file(path)


def test_a_file_from_before_torch_1_6_is_read_where_it_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"x": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert load_torch_file(path, legacy=True)["x"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no archive of torch"):
        load_torch_file(path)
