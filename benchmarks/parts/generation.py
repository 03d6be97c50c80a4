"""The part `generation`: GPT-2 small writes, a token at a time."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.contenders.process import Worker, scratch_folder, workers
from benchmarks.contenders.protocol import Command
from benchmarks.contenders.selection import TITLES
from benchmarks.options import Options
from benchmarks.report.results import Report, Series
from benchmarks.workloads import WRITING
from folio.runtime.errors import FolioError

LENGTHS = (64, 256)
LARGE_BATCH = 8
WARM_UP_TOKENS = 16

NEEDED_CONTEXT = 512
"""So that no window slides: past it all programs read everything anew."""


def measure_generation(options: Options, report: Report) -> None:
    """Add tokens/s of all sides at LENGTHS, and Folio's with LARGE_BATCH rows.

    Raises: FolioError where two sides do not write the same.
    """
    config = options.compose([*WRITING, *options.overrides])
    if config.model.context_length < NEEDED_CONTEXT:
        raise FolioError(
            f"model.context_length={config.model.context_length} is too short for the part generation; "
            f"give {NEEDED_CONTEXT} or more, or leave the part out"
        )
    assert config.model.vocab_size is not None
    able, reasons = options.peers.able(config.transformer_config(config.model.vocab_size))
    report.skipped += [reason for reason in reasons if reason not in report.skipped]
    sides = ["folio", *(side for side in able if side != "bare")]
    with scratch_folder() as folder, ExitStack() as stack:
        options.say(f"generation: starting {', '.join(TITLES[side] for side in sides)}")
        specs = [options.spec(config, folder, side, task="generate") for side in (*sides, "folio_int8")]
        writers = stack.enter_context(workers(specs[:-1]))
        try:
            writers += stack.enter_context(workers(specs[-1:]))
        except FolioError as error:  # not every CPU has the products
            report.skipped.append(f"generation in int8 is left out: {error}")
        report.checks += check_same(writers)
        report.series += measure_writers(writers, options)


def measure_writers(writers: Sequence[Worker], options: Options) -> list[Series]:
    """All sides in turn, round by round."""
    tasks = [(writer, n_new, 1) for n_new in LENGTHS for writer in writers]
    tasks += [(writers[0], LENGTHS[0], LARGE_BATCH)]
    rates: dict[tuple[str, int, int], list[float]] = {}
    for number in range(options.rounds):
        for writer, n_new, batch in tasks:
            rows = f", {batch} texts" if batch > 1 else ""
            title = TITLES[writer.side]
            options.say(f"generation: round {number + 1} of {options.rounds}, {title}, {n_new} tokens{rows}")
            answer = writer.ask(Command("write", n_new, batch))
            rates.setdefault((writer.side, n_new, batch), []).append(batch * n_new / answer["elapsed_s"])
    memory = {writer.side: memory_facts(writer) for writer in writers}
    series = []
    for (side, n_new, batch), values in rates.items():
        # A batch is compared with a single text of the same side, and stands beside it.
        name = TITLES[side] if batch == 1 else f"{TITLES[side]}, {batch} texts at once"
        note = f"peak {memory[side]['peak_bytes'] / 2**20:,.0f} MiB"
        series.append(Series("generation", f"{n_new} tokens", name, "tokens/s", values, note, memory[side]))
    return series


def memory_facts(writer: Worker) -> dict[str, Any]:
    return {
        "peak_bytes": writer.ask(Command("memory"))["peak_bytes"],
        "rss_before_bytes": writer.facts["rss_before_bytes"],
    }


def check_same(writers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Let all write a little, and compare what they write. int8 is another function, and only noted."""
    written = {writer.side: writer.ask(Command("write", WARM_UP_TOKENS))["tokens"] for writer in writers}
    ours = written["folio"]
    for side, to_gpt2_state in written.items():
        if to_gpt2_state != ours and side != "folio_int8":
            first = next(index for index, (a, b) in enumerate(zip(ours, to_gpt2_state, strict=True), 1) if a != b)
            raise FolioError(
                f"generation: {TITLES['folio']} and {TITLES[side]} do not write the same, so their speeds are no "
                f"comparison: new token {first} is {ours[first - 1]} and {to_gpt2_state[first - 1]}"
            )
    return [
        {"what": "greedy tokens", "side": side, "same": to_gpt2_state == ours, "tokens": to_gpt2_state}
        for side, to_gpt2_state in written.items()
    ]
