"""scripts/serve.py as a user starts it."""

import contextlib
import io
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from workspace import Run, Workspace

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
