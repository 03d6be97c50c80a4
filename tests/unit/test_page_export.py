"""What a page cannot show is refused in one line before any work, and the files of the page fit together."""

import json
import math
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from folio.cli.page import PageRequest, check_destination, with_distinct_names
from folio.data.tokenizers.byte import ByteTokenizer
from folio.export.page.architecture import SUPPORTED, TOKENIZERS, check_page, check_page_size, page_shape
from folio.export.page.page import PAGE_SCRIPTS, PARTS, WORKER_SCRIPTS, PageModel, join_scripts, page_pieces, write_page
from folio.export.page.weights import PackedWeights, pack_weights
from folio.models import GPT, TransformerConfig
from folio.runtime.errors import FolioError

CONFIG = TransformerConfig(vocab_size=256, context_length=8, n_layers=1, n_heads=2, d_model=16)


def tiny_page_model(**changes: Any) -> PageModel:
    weights = PackedWeights([], b"")
    described = PageModel("run", 1, CONFIG, ByteTokenizer(), "fp32", weights, 0, "a")
    return replace(described, **changes)


def test_an_encoder_decoder_is_refused() -> None:
    config = replace(CONFIG, family="encoder_decoder", conditioning="cross_attention")
    with pytest.raises(FolioError, match=r"model.family=encoder_decoder, and a page shows only decoder, encoder"):
        check_page(config, "char")


@pytest.mark.parametrize("field", fields(TransformerConfig), ids=lambda field: field.name)
def test_an_option_that_the_page_does_not_know_is_refused(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new option of the model is none that the page knows, until someone adds it to both."""
    monkeypatch.delitem(SUPPORTED, field.name, raising=False)
    changed = replace(CONFIG)
    if field.default is not MISSING:
        check_page(changed, "char")
    object.__setattr__(changed, field.name, "another value")
    with pytest.raises(FolioError, match=f"{field.name}=another value"):
        check_page(changed, "char")


def test_values_and_tokenizers_that_the_page_does_not_know_are_refused() -> None:
    for name in ("positional_encoding", "norm", "activation", "norm_position"):
        changed = replace(CONFIG)
        object.__setattr__(changed, name, "parallel")
        with pytest.raises(FolioError, match=f"{name}=parallel"):
            check_page(changed, "char")
    with pytest.raises(FolioError, match="tokenizer=huggingface"):
        check_page(CONFIG, "huggingface")


def test_weights_that_no_browser_could_open_are_refused() -> None:
    check_page_size(100_000_000, "fp32")
    with pytest.raises(FolioError, match="use --weights fp16 or int8, or a smaller model"):
        check_page_size(200_000_000, "fp32")
    check_page_size(200_000_000, "fp16")
    with pytest.raises(FolioError, match="use a smaller model"):
        check_page_size(600_000_000, "int8")


def test_the_place_of_the_page_is_checked_first(tmp_path: Path) -> None:
    existing = tmp_path / "page.html"
    check_destination(existing, force=False)
    existing.write_text("mine")
    with pytest.raises(FolioError, match="exists; name another file, or give --force"):
        check_destination(existing, force=False)
    check_destination(existing, force=True)
    with pytest.raises(FolioError, match="is a folder"):
        check_destination(tmp_path, force=True)
    with pytest.raises(FolioError, match="cannot write"):
        check_destination(existing / "page.html", force=False)
    assert existing.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [existing]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")

    def pieces(*arguments: object) -> Any:
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("folio.export.page.page.page_pieces", pieces)
    with pytest.raises(OSError, match="No space left"):
        write_page(page, [tiny_page_model()])
    assert page.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [page]


def test_no_script_ends_its_element_and_each_is_used() -> None:
    for names in (WORKER_SCRIPTS, PAGE_SCRIPTS):
        joined = join_scripts(names)
        assert "</script" not in joined
        assert "<!--" not in joined
    used = {*WORKER_SCRIPTS, *PAGE_SCRIPTS}
    assert used == {str(path.relative_to(PARTS / "js")) for path in (PARTS / "js").rglob("*.js")}


def test_data_cannot_end_its_element() -> None:
    page = b"".join(page_pieces([tiny_page_model(run="</script><script>alert(1)", prompt="<!-- texts -->")])).decode()
    assert page.count("<script") == page.count("</script>")
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page


def test_data_is_json_even_if_a_metric_is_infinite() -> None:
    page = b"".join(page_pieces([tiny_page_model(val={"loss_nats": 1e6, "perplexity": math.inf})])).decode()
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    (model,) = json.loads(text, parse_constant=pytest.fail)["models"]
    assert model["val"] == {"loss_nats": 1e6}


def test_runs_of_one_name_get_those_of_their_folders() -> None:
    models = [tiny_page_model(), tiny_page_model()]
    paths = [Path("outputs/first/checkpoints/best.ckpt"), Path("outputs/second/checkpoints/best.ckpt")]
    assert [model.run for model in with_distinct_names(models, paths)] == ["first", "second"]
    same = [Path("outputs/first/checkpoints/best.ckpt"), Path("outputs/first/checkpoints/last.ckpt")]
    assert [model.run for model in with_distinct_names(models, same)] == ["run", "run"]


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_packed_weights_take_their_bytes_and_are_what_the_model_then_has(precision: Any, size: int) -> None:
    model = GPT(replace(CONFIG, bias=False))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    packed = pack_weights(model, precision)
    n_matrix = sum(parameter.numel() for parameter in before.values() if parameter.ndim == 2)
    assert len(packed.data) == pytest.approx(size * n_matrix, rel=0.3)
    assert [entry["name"] for entry in packed.tensors] == list(before)
    assert all(entry["start"] % 4 == 0 for entry in packed.tensors)
    errors = {name: (parameter - before[name]).abs().max() for name, parameter in model.named_parameters()}
    largest = max(parameter.abs().max() for parameter in before.values())
    assert max(errors.values()) <= {"fp32": 0.0, "fp16": 2**-11, "int8": 1 / 127}[precision] * largest
    assert (max(errors.values()) > 0) == (precision != "fp32")


def test_a_weight_that_is_too_large_for_fp16_is_refused() -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        model.token_embedding.weight[0, 0] = 1e6
    with pytest.raises(FolioError, match=r"token_embedding.weight holds 1e\+06, and fp16 ends at 65504"):
        pack_weights(model, "fp16")


def test_a_page_knows_every_tokenizer_that_it_allows() -> None:
    source = (PARTS / "js" / "tokenizers.js").read_text(encoding="utf-8")
    for kind in TOKENIZERS.values():
        assert f"{kind}: " in source
    assert page_shape(CONFIG)["n_kv_heads"] == 2
    assert PageRequest(run="latest", page=Path("page.html")).weights == "fp32"
