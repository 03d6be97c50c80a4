"""Whether a training fits, and how long it takes: python scripts/plan.py model=gpt2_xl devices=8 memory=80"""

from folio.runtime.signals import exit_on_signals

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from folio.cli.compose import validate
from folio.cli.errors import one_line_errors
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.tokenizers.rank_files import ENCODINGS

CONF = Path(__file__).resolve().parents[1] / "conf"
OWN = {
    "devices": (1, "devices, over all machines"),
    "memory": (80, "GiB of one device"),
    "tokens": (0, "to train on; 0: 20 for each parameter, by Chinchilla's rule"),
    "peak": (989, "TFLOP/s of one device in the precision of training (an H100 in bf16)"),
    "utilization": (0.4, "share of the peak that a step reaches"),
    "link": (450, "GB/s from a device to another of its machine (NVLink 4)"),
    "node_link": (50, "GB/s from a device to another machine (400 Gb/s each)"),
    "devices_per_node": (8, "devices of one machine"),
}
"""Words that are not train.py's, with their defaults."""

USAGE = "\n".join(
    ["scripts/plan.py [group=option] [key=value] ...: the words of train.py, and of its own"]
    + [f"  {name}={default:<6} {meaning}" for name, (default, meaning) in OWN.items()]
)


@one_line_errors
def main(words: list[str]) -> None:
    """Print the ways to train, whether each fits, and how long each takes."""
    if any(word in ("-h", "--help") for word in words):
        print(USAGE)
        return
    own, overrides = own_words(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", overrides), resolve=True)
    assert isinstance(values, dict)
    config = with_batch(validate({str(key): value for key, value in values.items()}), int(own["devices"]))
    shape = config.transformer_config(vocabulary(config))

    # Only now torch, whose import takes seconds.
    from folio.distributed import cost_model as scale

    machine = scale.Machine(
        memory=own["memory"] * scale.GIB,
        peak=own["peak"] * 1e12,
        utilization=own["utilization"],
        link=own["link"] * 1e9,
        node_link=own["node_link"] * 1e9,
        devices_per_node=int(own["devices_per_node"]),
        is_cpu=config.trainer.accelerator == "cpu",
    )
    n_devices, parameters = int(own["devices"]), scale.n_parameters(shape)
    n_tokens = int(own["tokens"]) or scale.tokens_for(parameters)
    per_step = config.training.batch_size * shape.context_length
    n_steps = -(-n_tokens // per_step)
    print(
        f"model        {config.model.name}: {parameters:,} parameters, context {shape.context_length:,}\n"
        f"a step       {config.training.batch_size:,} sequences, {per_step:,} tokens, "
        f"{scale.step_flops(shape, config.training.batch_size):.3e} operations\n"
        f"tokens       {n_tokens:,} = {n_steps:,} steps\n"
        f"devices      {n_devices:,} of {own['memory']:g} GiB, {own['peak']:g} TFLOP/s at {own['utilization']:g}\n"
    )
    print(f"{'way':<34} {'at once':>7} {'GiB':>8} {'fits':>5} {'step':>9} {'all':>9}  what limits it")
    found = scale.plans(config, shape, machine, n_devices)
    for way in found:
        print(
            f"{way.strategy:<34} {way.micro_batch_size:>7} {way.memory.total / scale.GIB:>8.2f} "
            f"{'yes' if way.fits else 'no':>5} {in_words(way.step_s):>9} {in_words(way.step_s * n_steps):>9}  "
            f"{way.bottleneck}"
        )
    best = min((way for way in found if way.fits), key=lambda way: way.step_s, default=None)
    if best is None:
        print("\nno way fits: more devices, a shorter context, or a smaller model")
        return
    parts = {name: getattr(best.memory, name) / scale.GIB for name in best.memory.__dataclass_fields__}
    print("\n" + best.strategy + ": " + ", ".join(f"{name} {size:.2f} GiB" for name, size in parts.items() if size))


def own_words(words: list[str]) -> tuple[dict[str, float], list[str]]:
    """Numbers for the words of `OWN`, and the others. Raises: ConfigError."""
    own = {name: float(default) for name, (default, _) in OWN.items()}
    overrides = []
    for word in words:
        name, _, value = word.partition("=")
        if name not in own:
            overrides.append(word)
            continue
        try:
            own[name] = float(value)
        except ValueError:
            raise ConfigError(f"{word}: {name} is a number, {OWN[name][1]}") from None
        if not 0 < own[name] < 1e15 and not (name == "tokens" and own[name] == 0):
            raise ConfigError(f"{word}: {name} must be above 0; it is {OWN[name][1]}")
    return own, overrides


def with_batch(config: RunConfig, n_devices: int) -> RunConfig:
    """The config with a batch of which each device has as many sequences, which the recipe's may be too small for."""
    batch_size = config.training.batch_size
    if batch_size % n_devices == 0:
        return config
    fitting = n_devices * -(-batch_size // n_devices)
    print(f"training.batch_size={batch_size} cannot be dealt out to {n_devices} devices; planned with {fitting}\n")
    training = config.training.model_copy(update={"batch_size": fitting})
    return config.model_copy(update={"training": training})


def vocabulary(config: RunConfig) -> int:
    """Of the model; where it depends on a text that is not read here, model.vocab_size has to be given."""
    if config.model.vocab_size is not None:
        return config.model.vocab_size
    name = config.tokenizer.name
    if name == "byte" or name in ENCODINGS:
        return 256 if name == "byte" else ENCODINGS[name].vocab_size
    raise ConfigError(f"tokenizer={name} has as many symbols as its text; add model.vocab_size=65, or your number")


def in_words(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, unit, size in ((1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0), (172_800.0, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:,.0f} d"


if __name__ == "__main__":
    main(sys.argv[1:])
