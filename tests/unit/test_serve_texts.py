"""The server's texts are generate.py's, and its log-probabilities are evaluate.py's, whatever else it computes."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from serving import client_of
from starlette.testclient import TestClient
from test_tokenizers import TEXT, build
from tiny_models import served

from folio.config.tokenizer import TOKENIZERS
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.generation.generate import generate
from folio.generation.stop_strings import until_stop
from folio.models.sampling import SamplingParams
from folio.objectives.text_loss import text_losses
from folio.serve.generation import TextWriter
from folio.serve.models import ServedModel

PROMPT = TEXT[:14]
N_NEW = 24
"""Number of new tokens: more than fit into the context of 16 after the prompt."""


@pytest.fixture(scope="module", params=[*(name for name in TOKENIZERS if name not in ENCODINGS), "gpt2"])
def model(request: pytest.FixtureRequest, assets_dir: Path) -> ServedModel:
    return served(build(request.param, assets_dir), positional_encoding="rotary")


@pytest.fixture(scope="module")
def byte_model() -> ServedModel:
    return served(ByteTokenizer())


def complete(client: TestClient, **fields: Any) -> dict[str, Any]:
    """Return the answer of /v1/completions."""
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert isinstance(answer, dict)
    return answer


def text_of(client: TestClient, **fields: Any) -> str:
    (choice,) = complete(client, **fields)["choices"]
    return str(choice["text"])


def events_of(client: TestClient, path: str = "/v1/completions", **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a stream."""
    response = client.post(path, json={**fields, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last, rest = response.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def expected(model: ServedModel, prompt: str, *, seed: int = 0, stop: tuple[str, ...] = (), **sampling: Any) -> str:
    """Return what scripts/generate.py adds to a prompt."""
    (pieces,) = generate(
        model.model,
        model.tokenizer,
        [prompt],
        max_new_tokens=N_NEW,
        sampling=SamplingParams(**sampling),
        seeds=[seed],
        stop=stop,
    )
    assert next(pieces) == prompt
    return "".join(pieces)


def test_a_text_is_that_of_generate_for_each_tokenizer_past_the_context(model: ServedModel) -> None:
    with client_of(model) as client:
        greedy = {"prompt": PROMPT, "max_tokens": N_NEW, "temperature": 0}
        assert text_of(client, **greedy) == expected(model, PROMPT, temperature=0.0)
        drawn = {"prompt": PROMPT, "max_tokens": N_NEW, "seed": 7, "temperature": 1.5, "top_k": 40, "min_p": 0.01}
        text = expected(model, PROMPT, seed=7, temperature=1.5, top_k=40, min_p=0.01)
        assert text_of(client, **drawn) == text
        streamed = [event["choices"][0] for event in events_of(client, **drawn)]
        assert "".join(choice["text"] for choice in streamed) == text
        assert [choice["finish_reason"] for choice in streamed] == [*(len(streamed) - 1) * [None], "length"]
        ids = model.tokenizer.encode(PROMPT).tolist()
        assert text_of(client, **{**drawn, "prompt": ids}) == text
        assert text_of(client, **drawn, echo=True) == PROMPT + text


def test_log_probabilities_of_a_prompt_are_its_losses(model: ServedModel) -> None:
    """As lm_eval asks for them; also for a prompt longer than the context, which is read as a split is validated."""
    ids, losses = text_losses(model.model, model.tokenizer, TEXT)
    assert len(ids) > model.context_length
    prompt = model.tokenizer.encode(TEXT).tolist()
    with client_of(model) as client:
        (choice,) = complete(client, prompt=prompt, echo=True, max_tokens=1, logprobs=1, temperature=0)["choices"]
    scores = choice["logprobs"]
    assert {len(scores[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")} == {len(ids) + 2}
    assert scores["token_logprobs"][0] is None
    measured = torch.tensor(scores["token_logprobs"][1:-1], dtype=torch.float64)
    assert torch.allclose(measured, -losses, atol=1e-5)
    columns = zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True)
    for token, logprob, top in list(columns)[1:]:
        assert top[token] == logprob <= max(top.values())
        assert len(top) <= 2
    assert scores["top_logprobs"][-1] == {scores["tokens"][-1]: scores["token_logprobs"][-1]}, "the greedy token"
    assert choice["text"].startswith(model.tokenizer.decode(prompt))


def test_tokens_and_offsets_describe_the_text(model: ServedModel) -> None:
    fields = {"prompt": PROMPT, "max_tokens": 6, "seed": 3, "logprobs": 0, "echo": True}
    with client_of(model) as client:
        (choice,) = complete(client, **fields)["choices"]
        streamed = [event["choices"][0] for event in events_of(client, **fields)]
    scores = choice["logprobs"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [value for part in streamed for value in part["logprobs"][name]] == scores[name]
    ends = [*scores["text_offset"][1:], len(choice["text"])]
    for token, start, end in zip(scores["tokens"], scores["text_offset"], ends, strict=True):
        if not token.startswith("bytes:"):  # the piece may begin with what the tokens before it left incomplete
            assert choice["text"][start:end].lstrip(" �") == token.lstrip(" �")


def test_a_seed_gives_the_same_text_whatever_else_is_running(byte_model: ServedModel) -> None:
    fields = [{"prompt": PROMPT[: 1 + seed % 5], "max_tokens": 40, "seed": seed} for seed in range(12)]
    with client_of(byte_model) as client:
        alone = [text_of(client, **one) for one in fields]
        with ThreadPoolExecutor(max_workers=len(fields)) as threads:
            together = list(threads.map(lambda one: text_of(client, **one), fields))
    assert together == alone
    assert len(set(alone)) == len(alone)


def test_each_prompt_gets_n_texts_with_consecutive_seeds(byte_model: ServedModel) -> None:
    with client_of(byte_model) as client:
        answer = complete(client, prompt=["ab", "c"], n=3, seed=5, max_tokens=8)
        singles = [
            text_of(client, prompt=prompt, seed=seed, max_tokens=8) for prompt in ("ab", "c") for seed in (5, 6, 7)
        ]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert [choice["text"] for choice in answer["choices"]] == singles
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 48, "total_tokens": 51}


def test_the_last_seed_is_followed_by_the_first(byte_model: ServedModel) -> None:
    with client_of(byte_model) as client:
        texts = [choice["text"] for choice in complete(client, prompt="a", n=2, seed=2**63 - 1)["choices"]]
        assert texts[1] == text_of(client, prompt="a", seed=-(2**63))


def test_a_stop_string_is_found_wherever_tokens_cut_it(model: ServedModel) -> None:
    fields = {"prompt": PROMPT, "max_tokens": N_NEW, "seed": 2}
    with client_of(model) as client:
        text = text_of(client, **fields)
        assert len(text) > 8
        for start in range(1, 6):
            stop = text[start : start + 3]
            wanted = expected(model, PROMPT, seed=2, stop=(stop,))
            answer = complete(client, **fields, stop=stop, logprobs=0)
            (choice,) = answer["choices"]
            assert choice["text"] == wanted == text[: text.find(stop)]
            assert choice["finish_reason"] == "stop"
            assert answer["usage"]["completion_tokens"] >= len(choice["logprobs"]["tokens"])
            assert all(offset < len(wanted) for offset in choice["logprobs"]["text_offset"])
            events = events_of(client, **fields, stop=["never written", stop])
            assert "".join(event["choices"][0]["text"] for event in events) == wanted


@given(
    text=st.text(alphabet="aé☃🌹\n", max_size=12),
    stop=st.lists(st.text(alphabet="aé☃🌹\n", min_size=1, max_size=4), max_size=2),
    n_bytes=st.integers(min_value=0, max_value=4),
)
def test_characters_appear_whole_with_all_of_their_tokens(text: str, stop: list[str], n_bytes: int) -> None:
    """Also if the text ends within a character."""
    ids = [*text.encode(), *"🌹".encode()[:n_bytes]]
    whole = "".join(until_stop(ByteTokenizer().decode_stream(ids), stop))
    writer, pieces = TextWriter(ByteTokenizer(), [], stop, index=0, start=5), []
    for token in ids:
        pieces.append(writer.push(token, torch.zeros(256), 0))
        if writer.is_stopped:
            break
    pieces.append(writer.finish("length"))
    assert "".join(piece.text for piece in pieces) == whole
    assert all("�" not in piece.text for piece in pieces[:-1])
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in tokens] == ids[: len(tokens)]
    assert [token.offset for token in tokens] == sorted(token.offset for token in tokens)
    if pieces[-1].finish_reason == "stop":
        assert all(5 <= token.offset < 5 + len(whole) for token in tokens)
    else:
        assert len(tokens) == len(ids)


def test_a_document_ends_at_its_token_and_an_empty_prompt_begins_one(assets_dir: Path) -> None:
    model = served(build("gpt2", assets_dir))
    end = model.tokenizer.end_of_text
    assert end not in model.encode_all(["<|endoftext|>"])[0], "a prompt is text"
    with torch.no_grad():  # a final bias: the token is always the likeliest
        model.model.output.weight.zero_()
        model.model.output.weight[end] = model.model.final_norm.bias
    with client_of(model) as client:
        answer = complete(client, prompt="", temperature=0)
        (choice,) = answer["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")
        assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        (choice,) = complete(client, prompt="a", temperature=0, max_tokens=2, ignore_eos=True)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (2 * "<|endoftext|>", "length")


def test_a_chat_is_one_prompt_whose_answer_ends_before_the_next_question(byte_model: ServedModel) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who is "}, {"type": "text", "text": "there?"}]},
    ]
    fields = {"messages": messages, "max_tokens": 20, "seed": 1, "logprobs": True, "top_logprobs": 2}
    with client_of(byte_model) as client:
        answer = client.post("/v1/chat/completions", json=fields).json()
        events = events_of(client, "/v1/chat/completions", **fields)
        prompt = "System: Be brief.\nUser: Who is there?\nAssistant:"
        text = text_of(client, prompt=prompt, max_tokens=20, seed=1, stop="\nUser:")
        continued = client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "assistant", "content": "ab"}], "max_tokens": 4, "seed": 1},
        ).json()
        assert continued["choices"][0]["message"]["content"] == text_of(
            client, prompt="Assistant: ab", max_tokens=4, seed=1
        )
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert len(choice["logprobs"]["content"]) == answer["usage"]["completion_tokens"] == 20
    assert all(len(token["top_logprobs"]) == 2 for token in choice["logprobs"]["content"])
    assert b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"]).decode(errors="replace") == text
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_a_stream_ends_with_the_numbers_of_tokens_if_asked(byte_model: ServedModel) -> None:
    with client_of(byte_model) as client:
        events = events_of(client, prompt="abc", max_tokens=5, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_tokenizing_remotely(model: ServedModel) -> None:
    with client_of(model) as client:
        ids = model.tokenizer.encode(PROMPT).tolist()
        answer = client.post("/tokenize", json={"prompt": PROMPT, "add_special_tokens": False}).json()
        assert answer == {"tokens": ids, "count": len(ids), "max_model_len": 16}
        assert client.post("/tokenize", json={"prompt": ""}).json()["tokens"] == []
        assert client.post("/detokenize", json={"tokens": ids}).json() == {"prompt": PROMPT}
        assert client.get("/tokenizer_info").json()["tokenizer_class"] == model.tokenizer.name
