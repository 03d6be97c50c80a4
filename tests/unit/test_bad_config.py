"""Every mistake in a config gives one line that names the key, before anything is written."""

import math
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from folio.cli.compose import validate
from folio.cli.other_names import KEYS
from folio.config.debug import DebugConfig
from folio.config.model import RotaryScalingConfig
from folio.config.run import RunConfig
from folio.config.section import ConfigError

Refuse = Callable[..., str]

# The overrides, and a part of the error message.
MISTAKES: list[tuple[str, str]] = [
    # numbers that are huge, negative, null, or no numbers
    ("seed=1e400", "seed=inf must be a valid integer"),
    ("seed=1000000000000000000000000000000", "must be less than 4294967296"),
    ("seed=10**30", "seed=10**30 must be a valid integer"),
    ("seed=-1", "seed=-1 must be greater"),
    ("seed=nan", "seed=nan"),
    ("seed=", "seed="),
    ("seed=[1]", "seed=[1]"),
    ("seed={a:1}", "seed={'a': 1}"),
    ("seed=true", "seed=True"),
    ("seed='\"1\"'", "seed="),
    ("optimizer.learning_rate=1e400", "optimizer.learning_rate=inf must be a finite number"),
    ("optimizer.learning_rate=-inf", "optimizer.learning_rate=-inf must be a finite number"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan must be a finite number"),
    ("optimizer.learning_rate=null", "optimizer.learning_rate=null"),
    ("optimizer.betas=[]", "optimizer.betas=[] must have at least 2 items, not 0"),
    ("optimizer.betas={a:1}", "optimizer.betas"),
    ("training.max_steps=1000000000000000000000000000000", "training.max_steps=1"),
    ("training.max_steps=1e3", "training.max_steps=1000.0 must be a valid integer"),
    ("training.batch_size=1000000000000000000", "training.batch_size=1"),
    ("training.micro_batch_size=1000000000000000000", "training.micro_batch_size=1"),
    ("training.batch_size=2147483647 training.micro_batch_size=2147483646", "try training.micro_batch_size=1"),
    ("training.batch_size=2147483644 training.micro_batch_size=2147483643", "size=1073741822"),
    ("model.n_layers=1000000000000000000000000000000", "model.n_layers=1"),
    ("model.d_model=1000000000 model.n_heads=1", "model.d_model=1000000000 must be 16777216 or less"),
    ("model.context_length=1000000000000000000", "model.context_length=1"),
    ("model.vocab_size=0", "model.vocab_size=0 must be 1 or more"),
    ("model.d_ff=0", "model.d_ff=0 must be 1 or more"),
    ("model.n_heads=0", "model.n_heads=0 must be 1 or more"),
    ("model.dropout=1", "model.dropout=1.0"),
    ("model.attention_dropout=-1", "model.attention_dropout=-1.0 must be at least 0"),
    # empty values and paths out of the folder
    ("name=", "name= must match"),
    ("name=../x", "name=../x must match"),
    ("name='\"a\tb\"'", "name"),
    ("model.name=../../x", "model.name=../../x must match"),
    ("model.name=", "model.name= must match"),
    ("paths.data_dir=", "paths.data_dir= must have at least 1 character"),
    ("paths.output_dir=", "paths.output_dir= must have at least 1 character"),
    ("callbacks.samples.prompt=", "callbacks.samples.prompt="),
    ("data.path=", "data.path= has no effect"),
    ("init_from=", "init_from must be given"),
    ("init_from=nowhere", "init_from=nowhere"),
    # unknown keys and options
    ("bogus=1", "bogus is not a key"),
    ("++bogus=1", "bogus is not a key"),
    ("modèle=nano", "modèle=nano"),
    ("model=näno", "model=näno"),
    ("模型=nano", "模型=nano"),
    ("seed=一", "seed=一"),
    ("model=../../etc/passwd", "model=../../etc/passwd is not one of"),
    ("model=/etc/passwd", "model=/etc/passwd is not one of"),
    ("experiment=", "experiment= is not one of"),
    ("hydra/launcher=bogus", "hydra/launcher=bogus is not one of"),
    ("hydra.bogus=1", "hydra.bogus is not a key"),
    ("model/foo=x", "model/foo is not a key"),
    ("model@foo=nano", "model@foo is not a key"),
    ("+model@bogus=nano", "bogus is not a key"),
    ("training.x.y.z=3", "training.x.y.z is not a key"),
    ("+training.x.y.z=3", "training.x is not a key"),
    ("+optimizer.learning_rate.x=1", "optimizer.learning_rate="),
    ("_target_=os.system", "_target_ is not a key"),
    ("+_target_=os.system", "_target_ is not a key"),
    ("+trainer._target_=os.system", "trainer._target_ is not a key"),
    ("+callbacks.mine._target_=os.system", "this checkout has no conf/callbacks/mine.yaml"),
    ("+trainer.__class__=x", "trainer.__class__ is not a key"),
    # missing
    ("~seed", "seed is missing"),
    ("~model.n_layers", "model.n_layers is missing"),
    ("~optimizer", "optimizer is missing"),
    ("~training", "training is missing"),
    ("~bogus", "'bogus' does not exist"),
    ("~seed=3", "'seed' is 1337 and not 3"),
    ("name=???", "name must be given"),
    # a section without keys
    ("training=null", "training=null"),
    ("training=3", "training=3"),
    ("callbacks.samples=null", "callbacks.samples=null"),
    # an option that is set twice
    ("+seed=1", "remove the plus"),
    ("+model=mini", "write model=option without the plus"),
    ("+model=nano", "write model=option without the plus"),
    ("model=[nano,mini]", "model=[nano,mini] names a list"),
    ("seed=1,2", "seed=1,2"),
    # syntax errors and invalid references
    ("seed", "'seed'"),
    ("seed==1", "'seed==1'"),
    ("seed=(1)", "'seed=(1)'"),
    ("name=a=b", "'name=a=b'"),
    ("+model.{a}=1", "'+model.{a}=1'"),
    ("seed=${bogus}", "seed: Interpolation key 'bogus' not found"),
    ("seed=${seed}", "seed: Recursive interpolation"),
    ("name=${oc.env:NO_SUCH_VARIABLE}", "name: KeyError"),
    ("name=${oc.env:PATH}", "name="),
    # contradictions
    ("schedule.min_learning_rate=1", "schedule.min_learning_rate=1.0 must not be above optimizer.learning_rate"),
    ("objective=prefix_lm", "objective=prefix_lm trains a model of family encoder_decoder"),
    ("conditioning=hidden_cache", "conditioning=hidden_cache has no effect"),
    ("schedule=wsd schedule.decay_share=1", "schedule.warmup_steps"),
    ("positional_encoding=sinusoidal model.d_model=9 model.n_heads=1", "model.d_model=9 must be even"),
    ("positional_encoding=learned positional_encoding.base=5", "positional_encoding.base is a key of another"),
    ("objective.mask_fraction=0.1", "objective.mask_fraction is a key of another objective"),
    # the options of today's decoders
    ("model.n_kv_heads=3", "model.n_kv_heads=3 must divide model.n_heads=4; the nearest that works is"),
    ("model.attention_window=0", "model.attention_window=0 must be 1 or more"),
    ("model.attention_window=SSSSL", "model.attention_window=SSSSL has 5 letters, but the model has model.n_layers=4"),
    ("model.attention_window=SXL", "model.attention_window=SXL must be a number of positions, or a letter"),
    ("model.attention_window=[S,L]", "model.attention_window=['S', 'L'] must be a valid integer"),
    ("model.logit_softcap=0", "model.logit_softcap=0.0 must be above 0"),
    ("model.d_head=33 positional_encoding=rotary", "model.d_head=33: positional_encoding=rotary rotates dimensions"),
    ("positional_encoding.rotary_fraction=0.5", "positional_encoding.rotary_fraction is a key of another"),
    (
        "positional_encoding=rotary positional_encoding.rotary_fraction=0.1",
        "positional_encoding.rotary_fraction=0.1 would",
    ),
    ("positional_encoding=rotary positional_encoding.rotary_scaling.name=yarn", "set all of its keys, as in"),
    (
        "model=llama_nano positional_encoding.rotary_scaling={name:yarn,factor:0.5,original_context_length:8}",
        "positional_encoding.rotary_scaling.factor=0.5 must be 1 or more",
    ),
    ("model=llama_1b positional_encoding=alibi", "positional_encoding.rotary_scaling=llama3 has no effect"),
    ("model.num_key_value_heads=2", "did you mean model.n_kv_heads?"),
    ("model.rotary_fraction=0.5", "did you mean positional_encoding.rotary_fraction?"),
    ("model.sliding_window=64", "did you mean model.attention_window?"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_a_mistake_is_one_line_that_names_it(
    typed: str, message: str, refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refuse(*typed.split(" "))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["x" * 100_000, ["x" * 10] * 10_000], ids=["text", "list"])
def test_a_long_value_is_cut(value: object, composed: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate({**composed[""], "seed": value})
    assert len(str(caught.value)) < 1000


def leaves(section: type[BaseModel], prefix: str = "", group: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield (override that selects the section, dotted key, field) for every field that holds a value."""
    for name, field in section.model_fields.items():
        inner = [kind for kind in members(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for kind in inner:
            chosen = f"{name}={typing.get_args(kind.model_fields['name'].annotation)[0]}" if len(inner) > 1 else group
            yield from leaves(kind, f"{prefix}{name}.", chosen)
        if not inner:
            yield group, prefix + name, field


def members(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


FIELDS = {f"{key} {group}".strip(): (group, key, field) for group, key, field in leaves(RunConfig)}

STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
"""Values of every type that YAML has."""


def wrong(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Return values that the annotation of a field does not allow."""
    kinds: set[type] = set()
    bounds: list[Any] = list(field.metadata)
    for member in members(field.annotation):
        if typing.get_origin(member) is typing.Annotated:
            member, *more = typing.get_args(member)
            bounds += [bound for part in more for bound in getattr(part, "metadata", [part])]
        origin = typing.get_origin(member)
        kinds |= {str} if origin is typing.Literal else {origin or member}
    closed = [member for member in members(field.annotation) if typing.get_origin(member) is typing.Literal]
    literals = {value for member in closed for value in typing.get_args(member)}
    of_other_type = STRANGE.filter(
        lambda value: type(value) not in kinds and not (type(value) is int and float in kinds)
    )
    out_of_range = [st.sampled_from(beyond) for bound in bounds if (beyond := violating(bound, kinds))]
    if float in kinds:
        out_of_range.append(st.sampled_from([math.nan, math.inf, -math.inf]))
    if literals and str in kinds:
        out_of_range.append(st.text().filter(lambda text: text not in literals))
    return st.one_of(of_other_type, *out_of_range)


def violating(bound: Any, kinds: set[type]) -> list[Any]:
    """Return values just outside a bound, and far outside."""
    match bound:
        case Ge(least) if int in kinds or float in kinds:
            return [least - 1, least - 10**30] if int in kinds else [least - 0.5, -1e300]
        case Gt(least):
            return [least, -(10**30)] if int in kinds else [float(least), -1e300]
        case Le(most):
            return [most + 1, 10**30] if int in kinds else [most + 0.5, 1e300]
        case Lt(most):
            return [most, 10**30] if int in kinds else [float(most), 1e300]
        case MinLen(least) if str in kinds:
            return ["x" * (least - 1)]
        case MinLen(least):
            return [[0.5] * (least - 1)]
        case MaxLen(most):
            return [[0.5] * (most + 1)]
    return []


@pytest.fixture(scope="module")
def composed(compose: Callable[..., RunConfig]) -> dict[str, dict[str, Any]]:
    """Return the plain values of a config for each override in FIELDS."""
    search = compose("hparams_search=optuna").hparams_search
    assert search is not None
    # A search belongs to the command, and the plain values of a run do not contain it; few runs have a debugging mode.
    optional = {"hparams_search": search.model_dump(), "debug": DebugConfig(name="limit").model_dump()}
    scaling = RotaryScalingConfig(name="yarn", factor=4.0, original_context_length=64).model_dump()
    values = {}
    for group in sorted({group for group, _, _ in FIELDS.values()}):
        values[group] = compose(*([group] if group else [])).model_dump() | optional
        values[group]["positional_encoding"]["rotary_scaling"] = scaling
    return values


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return values | {first: changed(values[first], rest, value) if rest else value}


def test_all_fields_are_found() -> None:
    assert len(FIELDS) > 70
    assert {"model.n_layers", "optimizer.momentum optimizer=muon", "callbacks.samples.top_k"} <= FIELDS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_refuses_values_outside_its_type_and_bounds(name: str, composed: dict[str, dict[str, Any]]) -> None:
    group, key, field = FIELDS[name]

    @settings(max_examples=10)
    @given(wrong(field))
    def refused(value: object) -> None:
        with pytest.raises(ConfigError) as caught:
            validate(changed(composed[group], key, value))
        assert str(caught.value).startswith(key)

    refused()


@pytest.mark.parametrize("name", [name for name, (_, key, _) in FIELDS.items() if len(key.rpartition(".")[2]) > 3])
def test_every_field_is_suggested_if_its_name_lacks_a_letter(name: str, composed: dict[str, dict[str, Any]]) -> None:
    group, key, _ = FIELDS[name]
    misspelt = key[:-2] + key[-1]
    with pytest.raises(ConfigError) as caught:
        validate(changed(composed[group], misspelt, 1))
    assert str(caught.value).startswith(f"{misspelt} is not a key of the config; did you mean {key}?")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.lr=0.001", "optimizer.learning_rate"),
        ("n_embd=128", "model.d_model"),
        ("model.attn_pdrop=0", "model.attention_dropout"),
        ("model.block_size=64", "model.context_length"),
        ("max_iters=10", "training.max_steps"),
        ("trainer.val_check_interval=3", "training.validate_every_steps"),
    ],
)
def test_the_name_of_a_key_in_other_projects_suggests_ours(typed: str, meant: str, refuse: Refuse) -> None:
    assert f"{typed.partition('=')[0]} is not a key of the config; did you mean {meant}?" in refuse(typed)


def test_the_names_of_other_projects_stand_for_existing_keys(compose: Callable[..., RunConfig]) -> None:
    values = compose().model_dump()
    for meant in KEYS.values():
        node = values
        for part in meant.split("."):
            node = node[part]
