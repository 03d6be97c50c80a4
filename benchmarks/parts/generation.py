"""The part `generation`: GPT-2 small generates, one token at a time."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.contenders.process import Worker, scratch_folder, start_workers
from benchmarks.contenders.protocol import Command
from benchmarks.contenders.selection import TITLES
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from benchmarks.workloads import GENERATION
from folio.runtime.errors import FolioError

LENGTHS = (64, 256)
LARGE_BATCH = 8
WARM_UP_TOKENS = 16

NEEDED_CONTEXT = 512
"""Context in which no window slides; beyond it, every program reads the whole window again."""


def measure_generation(options: Options, report: BenchmarkReport) -> None:
    """Add the tokens/s of each contender at LENGTHS, and Folio's with LARGE_BATCH rows.

    Raises: FolioError if two contenders generate different tokens.
    """
    config = options.compose([*GENERATION, *options.overrides])
    if config.model.context_length < NEEDED_CONTEXT:
        raise FolioError(
            f"model.context_length={config.model.context_length} is too short for the part generation; "
            f"give {NEEDED_CONTEXT} or more, or leave the part out"
        )
    assert config.model.vocab_size is not None
    peers, reasons = options.peers.supporting(config.transformer_config(config.model.vocab_size))
    report.skip(reasons)
    names = ["folio", *(name for name in peers if name != "bare")]
    with scratch_folder() as folder, ExitStack() as stack:
        options.say(f"generation: starting {', '.join(TITLES[name] for name in names)}")
        specs = [options.spec(config, folder, name, task="generate") for name in (*names, "folio_int8")]
        workers = stack.enter_context(start_workers(specs[:-1]))
        try:
            workers += stack.enter_context(start_workers(specs[-1:]))
        except FolioError as error:  # not every CPU has int8 matrix products, and no GPU
            report.skip([f"generation in int8 is left out: {error}"])
        report.checks += check_same_tokens(workers)
        report.series += measure_rates(workers, options)


def measure_rates(workers: Sequence[Worker], options: Options) -> list[Series]:
    """Let the contenders take turns, round by round, and return their tokens/s."""
    tasks = [(worker, n_new, 1) for n_new in LENGTHS for worker in workers]
    tasks += [(workers[0], LENGTHS[0], LARGE_BATCH)]
    rates: dict[tuple[str, int, int], list[float]] = {}
    for number in range(options.rounds):
        for worker, n_new, batch in tasks:
            rows = f", {batch} texts" if batch > 1 else ""
            title = TITLES[worker.contender]
            options.say(f"generation: round {number + 1} of {options.rounds}, {title}, {n_new} tokens{rows}")
            reply = worker.ask(Command("generate", n_new, batch))
            rates.setdefault((worker.contender, n_new, batch), []).append(batch * n_new / reply["elapsed_s"])
    memory = {worker.contender: memory_facts(worker) for worker in workers}
    series = []
    for (name, n_new, batch), values in rates.items():
        # A batch is compared with a single text of the same contender, in the same group.
        title = TITLES[name] if batch == 1 else f"{TITLES[name]}, {batch} texts at once"
        peak_mib = (memory[name]["gpu_peak_bytes"] or memory[name]["peak_bytes"]) / 2**20
        note = f"peak {peak_mib:,.0f} MiB"
        series.append(Series("generation", f"{n_new} tokens", title, "tokens/s", values, note, memory[name]))
    return series


def memory_facts(worker: Worker) -> dict[str, Any]:
    reply = worker.ask(Command("memory"))
    return {name: reply[name] for name in ("peak_bytes", "gpu_peak_bytes")} | {
        "rss_before_bytes": worker.facts["rss_before_bytes"]
    }


def check_same_tokens(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Let each contender generate a few tokens and compare them. int8 is another function, so it may differ."""
    generated = {worker.contender: worker.ask(Command("generate", WARM_UP_TOKENS))["tokens"] for worker in workers}
    expected = generated["folio"]
    for name, tokens in generated.items():
        if tokens != expected and name != "folio_int8":
            first = next(index for index, (a, b) in enumerate(zip(expected, tokens, strict=True), 1) if a != b)
            raise FolioError(
                f"generation: {TITLES['folio']} and {TITLES[name]} generate different tokens, so their speeds are not "
                f"comparable: new token {first} is {expected[first - 1]} and {tokens[first - 1]}"
            )
    return [
        {"what": "greedy tokens", "contender": name, "same": tokens == expected, "tokens": tokens}
        for name, tokens in generated.items()
    ]
