"""Estimate memory and time of a training run: python scripts/plan.py model=gpt2_xl devices=8 memory=80

Or what to train in five minutes here: python scripts/plan.py experiment=size_ladder model.vocab_size=65 minutes=5
"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from folio.cli.arguments import PLAN, order_arguments
from folio.cli.compose import composed, load_config
from folio.cli.errors import one_line_errors
from folio.cli.repeat import repeat_run
from folio.cli.scripts import require_output
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.config.updates import with_vocab_size
from folio.report.joint_law import fit_joint_law, read_points
from folio.runtime.commands import command, quote_for_shell
from folio.runtime.files import expand_home

if TYPE_CHECKING:
    from folio.report.suggestion import Suggestions

CONF = Path(__file__).resolve().parents[1] / "conf"

OPTIONS = {
    "devices": (1, "number of devices, on all machines"),
    "memory": (80, "GiB per device"),
    "tokens": (0, "number of training tokens; 0: 20 per parameter, as in Chinchilla"),
    "peak": (989, "peak TFLOP/s of a device in the precision of training (H100, bf16)"),
    "utilization": (0.4, "share of the peak that a step reaches"),
    "link": (450, "GB/s between devices of a machine (NVLink 4)"),
    "node_link": (50, "GB/s from a device to another machine (400 Gb/s each)"),
    "devices_per_node": (8, "devices per machine"),
    "minutes": (0, "suggest a width, a depth and a number of steps for so many minutes on this machine"),
}
"""Keys of this script, with their defaults. All others are train.py's."""

LAW = "law"
"""Key of the file of runs to which the law is fitted."""
LADDER, LADDER_FILE = "experiment=size_ladder", Path("docs", "results", "size_and_tokens.csv")
"""The recipe whose runs are part of this checkout, and their file."""

INTEGERS = ("devices", "tokens", "devices_per_node")

USAGE = "\n".join(
    ["scripts/plan.py [group=option] [key=value] ...: the overrides of train.py, and"]
    + [f"  {name}={default:<6} {meaning}" for name, (default, meaning) in OPTIONS.items()]
    + [f"  {LAW}=FILE    with minutes: runs to go by, from scripts/scaling.py --along both; those of {LADDER}"]
)


@one_line_errors
def main(arguments: list[str]) -> None:
    """Print the ways to train, whether each fits, and how long each takes."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return
    law_file, words = take_law(arguments)
    options, overrides = parse_options(repeat_run(order_arguments(words, CONF, script=PLAN), CONF))
    if law_file is not None or options["minutes"]:
        suggest_size(options["minutes"], law_file, overrides)
        return
    n_devices = int(options["devices"])
    config = round_up_batch(planned_config(overrides), n_devices)
    assert config.model.vocab_size is not None
    model = config.transformer_config(config.model.vocab_size)

    # Only now torch, whose import takes seconds.
    from folio.distributed import cost_model
    from folio.distributed.cost_model import GIB

    hardware = cost_model.Hardware(
        memory=options["memory"] * GIB,
        peak=options["peak"] * 1e12,
        utilization=options["utilization"],
        link=options["link"] * 1e9,
        node_link=options["node_link"] * 1e9,
        devices_per_node=int(options["devices_per_node"]),
        is_cpu=config.trainer.accelerator == "cpu",
    )
    parameters, batch_size = cost_model.n_parameters(model), config.training.batch_size
    n_tokens = int(options["tokens"]) or cost_model.optimal_tokens(parameters)
    tokens_per_step = batch_size * model.context_length
    n_steps = -(-n_tokens // tokens_per_step)
    print(
        f"model        {config.model.name}: {parameters:,} parameters, context {model.context_length:,}\n"
        f"step         {batch_size:,} sequences, {tokens_per_step:,} tokens, "
        f"{cost_model.step_flops(model, batch_size):.3e} FLOPs\n"
        f"training     {n_tokens:,} tokens = {n_steps:,} steps\n"
        f"generation   a text of {model.context_length:,} tokens has "
        f"{cost_model.cache_bytes(model, model.context_length) / 2**20:,.1f} MiB of keys and values in float32\n"
        f"devices      {n_devices:,} with {options['memory']:g} GiB and {options['peak']:g} TFLOP/s each, "
        f"utilization {options['utilization']:g}\n"
    )
    print(f"{'strategy':<34} {'micro-batch':>11} {'GiB':>8} {'fits':>5} {'step':>9} {'total':>9}  bottleneck")
    plans = cost_model.make_plans(config, model, hardware, n_devices)
    for plan in plans:
        print(
            f"{plan.strategy:<34} {plan.micro_batch_size:>11} {plan.memory.total / GIB:>8.2f} "
            f"{'yes' if plan.fits else 'no':>5} {duration(plan.step_s):>9} {duration(plan.step_s * n_steps):>9}  "
            f"{plan.bottleneck}"
        )
    best = min((plan for plan in plans if plan.fits), key=lambda plan: plan.step_s, default=None)
    if best is None:
        print("\nnothing fits: use more devices, a shorter context or a smaller model")
        return
    sizes = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in vars(best.memory).items() if size)
    print(f"\n{best.strategy}: {sizes}")


def take_law(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the value of law=FILE, and the other arguments."""
    given = [word.partition("=")[2] for word in arguments if word.startswith(f"{LAW}=")]
    return (given[-1] if given else None), [word for word in arguments if not word.startswith(f"{LAW}=")]


def suggest_size(minutes: float, law_file: str | None, overrides: list[str]) -> None:
    """Print the width, depth and number of steps that should reach the lowest loss in so many minutes here.

    Raises: ConfigError; FolioError if the law cannot be fitted.
    """
    if not minutes:
        raise ConfigError(f"{LAW}={law_file} is for a budget; add minutes=5")
    if law_file is None and LADDER not in overrides:
        raise ConfigError(
            f"minutes={minutes:g}: the runs of this checkout to go by are those of {LADDER}; add it, or fit your own: "
            f"sweep model.d_model and training.max_steps, scripts/scaling.py --along both, {LAW}=<its scaling_both.csv>"
        )
    config = planned_config(overrides)
    if config.objective.name != "causal_lm":
        raise ConfigError(f"objective={config.objective.name}: sizes are suggested for objective=causal_lm alone")
    if config.trainer.n_processes > 1:
        raise ConfigError(f"trainer.devices={config.trainer.devices}: a step is measured on one; use trainer.devices=1")
    points = CONF.parent / LADDER_FILE if law_file is None else Path(expand_home(law_file))
    try:
        metric, measured_runs = read_points(points)
    except OSError as error:
        raise ConfigError(f"{LAW}={points} cannot be read ({error.strerror}); give another file") from None
    fit = fit_joint_law(measured_runs)

    from folio.distributed.devices import resolve_device
    from folio.report.suggestion import MIN_STEPS, SHARE, suggest
    from folio.training.measured_step import measure_step

    device = resolve_device(config.trainer)
    assert config.model.vocab_size is not None
    model = config.transformer_config(config.model.vocab_size)
    found = suggest(
        model, config.training.batch_size, 60.0 * minutes, fit, lambda each: measure_step(config, each, device)
    )
    if found is None:
        raise ConfigError(f"minutes={minutes:g} are too few for {MIN_STEPS} steps of any size; give more")
    print(f"law          {metric} = {fit.law}, fitted to {len(fit.points)} runs")
    steps = ", ".join(f"d_model {width} {duration(step_s)}" for width, step_s in sorted(found.measured.items()))
    print(f"step         measured on {device.name}: {steps}; others by their operations")
    print_suggestions(found, metric, SHARE)
    for text in fit.extrapolated(found.best.parameters, found.best.n_tokens):
        print(f"beyond       {text}: the law is extrapolated, and the interval may be too narrow")
    best = found.best
    sizes = {
        "model.d_model": best.model.d_model,
        "model.n_layers": best.model.n_layers,
        "training.max_steps": best.n_steps,
        **({} if config.model.d_ff is None else {"model.d_ff": "null"}),
    }
    kept = [quote_for_shell(word) for word in overrides if word.partition("=")[0] not in sizes]
    print(f"train it     {command('train.py', *kept, *(f'{key}={value}' for key, value in sizes.items()))}")


def print_suggestions(found: "Suggestions", metric: str, share: float) -> None:
    """Print the suggested size among its neighbors, and how sure it is."""
    print(f"\n{'d_model':>7} {'n_layers':>8} {'parameters':>11} {'steps':>9} {'tokens':>13}  ", end="")
    print(f"{metric}, {share:.0%} of runs")
    for each in found.shown:
        mark = "  <- suggested" if each is found.best else ""
        print(
            f"{each.model.d_model:>7} {each.model.n_layers:>8} {each.parameters:>11,} {each.n_steps:>9,} "
            f"{each.n_tokens:>13,}  {each.loss:.3f}, {each.interval[0]:.3f} to {each.interval[1]:.3f}{mark}"
        )
    low, high = found.widths
    print(f"\nsure         {share:.0%} of the laws that fit resampled runs choose d_model {low} to {high}")


def parse_options(arguments: list[str]) -> tuple[dict[str, float], list[str]]:
    """Return the values of `OPTIONS`, and the other arguments. Raises: ConfigError."""
    options = {name: float(default) for name, (default, _) in OPTIONS.items()}
    overrides = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in options:
            overrides.append(argument)
            continue
        meaning = OPTIONS[name][1]
        try:
            options[name] = float(value)
        except ValueError:
            raise ConfigError(f"{argument}: {name} must be a number ({meaning})") from None
        if not 0 < options[name] < 1e15 and not (name in ("tokens", "minutes") and options[name] == 0):
            raise ConfigError(f"{argument}: {name} must be above 0 ({meaning})")
        if name in INTEGERS and not options[name].is_integer():
            raise ConfigError(f"{argument}: {name} must be an integer ({meaning})")
    return options, overrides


def planned_config(overrides: list[str]) -> RunConfig:
    """Return the config, checked as train.py checks it. Raises: ConfigError."""
    with composed(overrides, CONF) as cfg:
        config = load_config(cfg)
    if config.resume is not None:
        raise ConfigError(f"resume={config.resume}: a plan is for a new run; leave it out")
    known = config.tokenizer.choice().known_vocab_size
    if known is not None:
        return with_vocab_size(config, known)
    if config.model.vocab_size is None:
        name = config.tokenizer.name
        raise ConfigError(f"tokenizer={name}: its vocabulary depends on the text; add model.vocab_size, for example 65")
    return config


def round_up_batch(config: RunConfig, n_devices: int) -> RunConfig:
    """Return the config with the next batch size that the devices can share equally."""
    batch_size = config.training.batch_size
    if batch_size % n_devices == 0:
        return config
    rounded = n_devices * -(-batch_size // n_devices)
    print(f"training.batch_size={batch_size} cannot be divided among {n_devices} devices; planning with {rounded}\n")
    training = config.training.model_copy(update={"batch_size": rounded})
    return config.model_copy(update={"training": training})


def duration(seconds: float) -> str:
    """Return a time in a suitable unit."""
    for limit, unit, size in ((1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0), (172_800.0, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:,.0f} d"


if __name__ == "__main__":
    main(sys.argv[1:])
    require_output()
