"""scripts/serve.py as a user starts it."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from workspace import TINY, TINY_TEXT, Run, Workspace, choose

import folio
from benchmarks.serving import describe, measure, started_server

SERVE = "scripts/serve.py"


def started_lines(lines: Iterator[str]) -> list[str]:
    """Return what a server prints until it can be used."""
    printed = []
    for line in lines:
        printed.append(line)
        if line.startswith("serving "):
            return printed
    raise AssertionError("".join(printed))


def test_a_run_is_served_as_generate_writes_until_ctrl_c(home: Workspace, finished_run: Run) -> None:
    last = finished_run.folder / "checkpoints" / "last.ckpt"
    with home.start(SERVE, str(finished_run.folder), str(last), "--port", "0", "--max-tokens", "1000000") as process:
        assert process.stdout is not None
        lines = started_lines(process.stdout)
        url = re.fullmatch(r"serving (http://127\.0\.0\.1:\d+/v1), until Ctrl-C\n", lines[-1])
        assert url, lines
        with openai.OpenAI(base_url=url[1], api_key="none", max_retries=0) as client:
            first, second = (model.id for model in client.models.list())
            assert (first, second) == ("tiny_shakespeare-debug", "tiny_shakespeare-debug-2")
            assert lines[0].startswith(f"{first}: {finished_run.folder}/checkpoints/best.ckpt, step ")
            answer = client.completions.create(model=first, prompt="ROMEO:", max_tokens=30, temperature=0, echo=True)
            options = ("--prompt", "ROMEO:", "--max-new-tokens", "30", "--greedy")
            assert home.must("scripts/generate.py", str(finished_run.folder), *options) == f"{answer.choices[0].text}\n"

            shown = io.StringIO()
            (command,) = (shlex.split(line) for line in lines if " -c " in line)
            assert command[:2] == ["python", "-c"]
            with contextlib.redirect_stdout(shown):
                exec(command[2], {})
            assert len(shown.getvalue()) == 41
            assert f"curl {url[1]}/completions" in "".join(lines)

            stream = client.completions.create(model=second, prompt="ROMEO:", max_tokens=1_000_000, stream=True)
            assert next(iter(stream)).choices
            process.send_signal(signal.SIGINT)
            with pytest.raises(openai.APIError, match="the server is stopping"):
                list(stream)
        assert process.wait() == 128 + signal.SIGINT
        assert process.stdout.read() == "stopped by SIGINT\n"


def test_without_the_extra_one_line_names_the_command(home: Workspace, finished_run: Run, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    refused = home.run(SERVE, str(finished_run.folder), PYTHONPATH=str(tmp_path))
    assert refused.error_line() == "error: serving needs uvicorn; install it with: pip install '.[serve]'\n"


@pytest.mark.slow
def test_fifty_clients_for_a_minute_lose_nothing_and_memory_stays_flat(workspace: Workspace) -> None:
    run = workspace.train(
        "model=nano",
        "data=text_file",
        "data.path=tiny.txt",
        "trainer=cpu",
        "training.max_steps=2",
        "schedule.warmup_steps=0",
    )
    with started_server(str(run.folder)) as (process, url):
        load = measure(url, process.pid, n_clients=50, seconds=60)
    print("\n".join(describe(load, 50)))
    assert load.errors == []
    assert load.n_answered >= 50  # on a busy machine each client is answered at least once
    assert load.n_left > 0
    assert {len(texts) for texts in load.texts.values()} == {1}
    first, *_, last = load.memory_mib[10:]
    assert last - first < 16, load.memory_mib


COMPANIONS = [Path(sys.prefix) / folder for folder in ("companions", "hugging_face")]
"""Where make puts what only comparisons with other programs need."""

TASKS = {
    # name: what one of lm_eval's tasks says besides its texts
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
    "continuation": "output_type: loglikelihood\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{continuation}}'\n"
    "target_delimiter: ''\nmetric_list: [{metric: perplexity}]\n",
}


@pytest.mark.slow
@pytest.mark.skipif(not (COMPANIONS[0] / "lm_eval").is_dir(), reason="needs lm_eval, which make test-slow installs")
def test_lm_eval_measures_the_log_likelihoods_of_evaluate(workspace: Workspace) -> None:
    """Of the whole validation text in windows, and of continuations; lm_eval finds the tokenizer by itself."""
    words = choose(TINY, "model.context_length=32")
    run = workspace.train(*words)
    loaded = folio.load(run.folder, device="cpu")
    val = TINY_TEXT[len(TINY_TEXT) * 9 // 10 :]
    texts = {
        "rolling": [{"text": val[1:]}],
        # Contexts that do not end with a space, which lm_eval would move to the continuation.
        "continuation": [{"text": val[at : at + 12], "continuation": val[at + 12 : at + 20]} for at in (0, 40, 93)],
    }
    for name, documents in texts.items():
        file = workspace.folder / "tasks" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
        where = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
        )
        file.with_suffix(".yaml").write_text(where + TASKS[name])
    with started_server(str(run.folder)) as (_, url):
        arguments = {
            "model": loaded.config.run_name,
            "base_url": f"{url}/v1/completions",
            "max_length": 34,  # the context, and two tokens that lm_eval keeps for itself
            "num_concurrent": 3,
            "custom_prefix_token_id": loaded.tokenizer.encode(val[0])[0],
        }
        given = ",".join(f"{key}={value}" for key, value in arguments.items())
        command = ["-m", "lm_eval", "--model", "local-completions", "--model_args", given, "--tasks", ",".join(texts)]
        options = ["--include_path", "tasks", "--output_path", "measured", "--log_samples"]
        subprocess.run(
            [sys.executable, *command, *options],
            cwd=workspace.folder,
            env=workspace.environment | {"PYTHONPATH": os.pathsep.join(map(str, COMPANIONS)), "HF_HUB_OFFLINE": "1"},
            check=True,
        )
    n_predicted = len(val) - 1
    assert measured(workspace, "rolling") == [pytest.approx(-run.metrics["val/loss_nats"] * n_predicted, rel=1e-6)]
    losses = [
        loaded.loss(document["text"] + document["continuation"], per_token=True).tokens[-8:]
        for document in texts["continuation"]
    ]
    sums = [-sum(token.nats for token in tokens) for tokens in losses]
    assert measured(workspace, "continuation") == [pytest.approx(total, rel=1e-5) for total in sums]


def measured(workspace: Workspace, task: str) -> list[float]:
    """Return the log-likelihood of each document of a task."""
    (file,) = (workspace.folder / "measured").rglob(f"samples_{task}_*.jsonl")
    answers = [json.loads(line)["filtered_resps"][0] for line in file.read_text().splitlines()]
    return [float(answer[0] if isinstance(answer, list) else answer) for answer in answers]
