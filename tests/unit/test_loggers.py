"""What the loggers write, and that trouble with their files does not end a run."""

import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fake_trainer import fake_trainer, sample_writer, untrained_module
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folio.cli.plugins import plugin_targets
from folio.config.run import RunConfig
from folio.training.loggers.base import Outcome, RunLogger, logged_run
from folio.training.loggers.csv import CSVLogger
from folio.training.loggers.guard import GuardedLogger
from folio.training.loggers.tensorboard import TensorBoardLogger
from folio.training.plugins import build_loggers

CONF = Path(__file__).parents[2] / "conf"

Logged = TypeVar("Logged", bound=RunLogger)
Compose = Callable[..., RunConfig]


@pytest.fixture
def tensorboard(tmp_path: Path) -> TensorBoardLogger:
    return opened(TensorBoardLogger(), tmp_path)


def opened(logger: Logged, folder: Path, resumed_at: int | None = None) -> Logged:
    logger.open("mine", folder, resumed_at)
    return logger


def events_in(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


@pytest.mark.parametrize("chosen", ["tensorboard", "csv", "[tensorboard,csv]", "none"])
def test_everything_can_be_logged_to_each_chosen_logger(chosen: str, compose: Compose, tmp_path: Path) -> None:
    config = compose(f"logger={chosen}")
    loggers = build_loggers(config, plugin_targets(config, CONF), tmp_path, None)
    for logger in loggers:
        log_everything(logger, config)
    names = [name for name in chosen.strip("[]").split(",") if name != "none"]
    assert [logger.name for logger in loggers] == names
    assert all(logger.save_dir == str(tmp_path) for logger in loggers)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_tensorboard_shows_metrics_texts_and_figures(tensorboard: TensorBoardLogger, tmp_path: Path) -> None:
    tensorboard.log_metrics({"train/loss_nats": 1.5}, 3)
    tensorboard.log_text("samples", "some text", 3)
    tensorboard.log_figure("schedule", Figure(), 3)
    tensorboard.flush()
    events = events_in(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss_nats")] == [(3, 1.5)]
    assert [event.step for event in events.Tensors("samples/text_summary")] == [3]
    (image,) = events.Images("visuals/schedule")
    assert image.encoded_image_string.startswith(b"\x89PNG")


def test_a_resumed_run_hides_what_it_logged_after_its_checkpoint(tmp_path: Path) -> None:
    for resumed_at, steps in ((None, (1, 2, 3)), (2, (3,))):
        logger = opened(TensorBoardLogger(), tmp_path, resumed_at)
        for step in steps:
            logger.log_metrics({"train/loss_nats": 0.0 if resumed_at else 1.0}, step)
        logger.finalize("success")
    assert [(event.step, event.value) for event in events_in(tmp_path).Scalars("train/loss_nats")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 0.0),
    ]


def test_html_in_a_sample_is_plain_text_in_markdown_and_in_tensorboard(
    tensorboard: TensorBoardLogger, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rendered by TensorBoard itself; without the indentation the same text would be a heading and an image."""
    with warnings.catch_warnings():  # about a package that TensorBoard has a copy of
        warnings.simplefilter("ignore")
        from tensorboard.plugin_util import markdown_to_safe_html
    hostile = "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\r\n# A heading\n[a](javascript:alert(1))"
    samples, module = sample_writer(tmp_path), untrained_module(compose("model=debug", "tokenizer=char"))
    monkeypatch.setattr(samples, "_generate", lambda _: iter([hostile]))
    samples.on_validation_end(fake_trainer(global_step=5, loggers=[tensorboard]), module)
    tensorboard.flush()
    (event,) = events_in(tmp_path).Tensors("samples/text_summary")
    (text,) = event.tensor_proto.string_val
    assert "<h1>" in markdown_to_safe_html(hostile)
    assert re.findall(r"<[^>]*>", markdown_to_safe_html(text)) == ["<pre>", "<code>", "</code>", "</pre>"]
    heading, *lines = (tmp_path / "samples.md").read_text().splitlines()
    assert heading == "## Step 5"
    assert all(line.startswith("    ") for line in lines if line)


@pytest.mark.parametrize("logger", [TensorBoardLogger(), CSVLogger()])
def test_files_that_cannot_be_written_are_warned_about_once(
    logger: RunLogger, tmp_path: Path, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("tensorboard", "csv"):
        (tmp_path / name).write_text("in the way")
    guarded = opened(GuardedLogger(logger), tmp_path)
    assert not (isinstance(logger, TensorBoardLogger) and hasattr(guarded, "experiment"))  # Lightning asks for it
    log_everything(guarded, compose())
    (warned,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"warning: logger.mine has failed and logs nothing more: .*/(tensorboard|csv).*", warned)


class Broken(RunLogger):
    """Raises in one method, and counts its calls."""

    shows_figures = True

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in INTERFACE:
            return super().__getattribute__(name)

        def call(*_: Any) -> None:
            self.calls.append(name)
            if name == self.broken:
                raise RuntimeError("the server is gone")

        return call


INTERFACE = (
    "open",
    "start_run",
    "log_metrics",
    "log_text",
    "log_figure",
    "log_results",
    "flush",
    "after_save_checkpoint",
    "finalize",
    "end_run",
)


def log_everything(logger: RunLogger, config: RunConfig) -> None:
    """Call each method of the interface, in the order of a run."""
    with logged_run([logger], config, ["seed"]):
        for step in (1, 2):
            logger.log_metrics({"train/loss_nats": 1.5}, step)
            logger.log_text("samples", "text", step)
            logger.log_figure("schedule", Figure(), step)
            logger.log_results({"status": "finished", "step": step, "best/val/loss_nats": 1.0})
            logger.flush()
            logger.after_save_checkpoint(None)
        logger.finalize("success")


@pytest.mark.parametrize("broken", INTERFACE)
def test_a_logger_that_raises_is_told_nothing_more_and_the_run_continues(
    broken: str, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    logger = Broken(broken)
    log_everything(opened(GuardedLogger(logger), Path()), compose())
    assert logger.calls.index(broken) == len(logger.calls) - 1
    (warned,) = [record.getMessage() for record in caplog.records]
    assert warned == ("warning: logger.mine has failed and logs nothing more: RuntimeError: the server is gone")
    working = Broken("")
    log_everything(opened(GuardedLogger(working), Path()), compose())
    assert set(working.calls) == set(INTERFACE)


def test_tensorboard_shows_tags_and_notes(tensorboard: TensorBoardLogger, compose: Compose, tmp_path: Path) -> None:
    tensorboard.start_run(compose("tags=[a b,c]", "notes='<b>why</b>'"), [])
    tensorboard.flush()
    (event,) = events_in(tmp_path).Tensors("notes/text_summary")
    assert event.tensor_proto.string_val == [b"tags: a b, c\n\n    <b>why</b>"]


class Recorder(RunLogger):
    def __init__(self) -> None:
        self.ended: list[str] = []

    def end_run(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


@pytest.mark.parametrize(
    ("outcome", "ended"),
    [(None, "finished"), (ValueError, "failed"), (KeyboardInterrupt, "stopped"), (SystemExit, "stopped")],
)
def test_loggers_learn_how_a_run_ended(outcome: type[BaseException] | None, ended: str, compose: Compose) -> None:
    logger = Recorder()
    with pytest.raises(outcome) if outcome else nullcontext(), logged_run([logger], compose(), []):
        if outcome:
            raise outcome
    assert logger.ended == [ended]


@pytest.mark.parametrize(("outcome", "statements"), [("finished", 1), ("failed", 1), ("stopped", 0)])
def test_tensorboard_has_no_end_of_a_run_that_can_be_resumed(
    outcome: Outcome, statements: int, tensorboard: TensorBoardLogger
) -> None:
    tensorboard.end_run(outcome)
    assert len(list(tensorboard.event_folder.glob("*.ended"))) == statements
