"""How command lines become configs, and the messages for those that cannot."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from folio.cli.errors import one_line_errors
from folio.cli.resume import RESUMABLE_KEYS, check_same_text, load_resumed_config
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runtime.errors import FolioError

Load = Callable[..., RunConfig]

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("model.n_layer=3", "model.n_layers"),
        ("model.n_head=3", "model.n_heads"),
        ("model.dmodel=3", "model.d_model"),
        ("training.maxsteps=3", "training.max_steps"),
        ("training.batchsize=3", "training.batch_size"),
        ("optimizer.lr_rate=3", "optimizer.learning_rate"),
        ("optimiser.learning_rate=3", "optimizer.learning_rate"),
        ("max_steps=3", "training.max_steps"),
        ("+max_steps=3", "training.max_steps"),
        ("sede=3", "seed"),
        ("+model.n_layer=3", "model.n_layers"),
        ("shedule=cosine", "schedule"),
        ("callbacks.samples.promt=A", "callbacks.samples.prompt"),
    ],
)
def test_an_unknown_key_suggests_the_closest_key(typed: str, meant: str, refuse: Callable[..., str]) -> None:
    message = refuse(typed)
    assert message.startswith(typed.lstrip("+").partition("=")[0])
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("wandb=true", "write logger=[tensorboard,wandb]"),
        ("+mlflow.uri=x", "write logger=[tensorboard,mlflow]"),
        ("wandb_project=x", "write logger.wandb.project=..."),
        ("report_to=comet", "wandb, mlflow"),
        ("ckpt_path=x", "did you mean resume?"),
        ("trainer.max_epochs=3", "length is counted in optimizer steps; write training.max_steps=..."),
        ("train.epochs=3", "write training.max_steps=..."),
        ("model.lr=1", "did you mean optimizer.learning_rate?"),
        ("device=cpu", "write trainer=cpu, trainer=gpu or trainer=mps"),
        ("model.rope=true", "write positional_encoding=rotary"),
        ("callbacks.ema.decay=1", "write callbacks=[default,ema]"),
        ("callbacks.early_stopping.patience=3", "write callbacks.early_stopping.patience=..."),
        ("num_workers=3", "without workers; leave it out"),
        ("data.batch_size=3", "did you mean training.batch_size?"),
        ("trainer.gradient_clip_val=1", "did you mean training.gradient_clip_norm?"),
        ("n_embd=3", "did you mean model.d_model?"),
        ("data.encoding_name=x", "did you mean tokenizer?"),
        ("training={bogus:1}", "--cfg job"),
        ("training.seeds=[1]", "did you mean seed?"),
        ("optimizer.bogus=1", "--cfg job"),
        ("model.size=1", "write model=gpt2_small"),
        ("trainer.fast_dev_run=true", "write debug=fast"),
        ("trainer.overfit_batches=1", "write debug=overfit"),
        ("trainer.limit_val_batches=2", "debug.val_batches=..."),
        ("profiler=simple", "did you mean trainer.profiler?"),
        ("trainer.max_time=1", "write callbacks.timer.duration=..."),
        ("gradient_accumulation_steps=2", "training.micro_batch_size what fits on a device"),
        ("model.scheduler.factor=0.1", "did you mean schedule?"),
        ("optimizer._target_=torch.optim.Adam", "classes are named in files of conf/callbacks and conf/logger"),
        ("callbacks.model_checkpoint.save_top_k=2", "callbacks.checkpoint.keep_every_steps=... keeps others"),
    ],
)
def test_a_name_of_another_project_is_answered_exactly_and_no_hint_is_a_guess(
    typed: str, answer: str, refuse: Callable[..., str]
) -> None:
    assert answer in refuse(typed).partition(" is not a key of the config; ")[2]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("init_from=scratch", "a run starts with new weights"),
        ("init_from=gpt2", "write init_from=FOLDER"),
        ("callbacks=none", "did you mean default?"),
        ("debug=fdr", "did you mean fast?"),
    ],
)
def test_the_value_of_another_project_is_answered(typed: str, answer: str, refuse: Callable[..., str]) -> None:
    assert answer in refuse(typed)


def test_an_unknown_key_without_a_close_match_explains_how_to_list_all_keys(refuse: Callable[..., str]) -> None:
    assert "--cfg job" in refuse("zzzzzzzz=1")


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (("optimizer=sgd", "+optimizer.eps=1"), "optimizer.eps"),
        (("schedule=constant", "+schedule.min_learning_rate=1"), "schedule.min_learning_rate"),
        (("tokenizer=gpt2", "tokenizer.max_vocab_size=5"), "tokenizer.max_vocab_size"),
    ],
)
def test_a_key_of_another_option_is_recognized(typed: tuple[str, ...], key: str, refuse: Callable[..., str]) -> None:
    assert refuse(*typed).startswith(f"{key} is a key of another {key.partition('.')[0]}")


@pytest.mark.parametrize("group", sorted(path.name for path in CONF.iterdir() if path.is_dir()))
def test_an_unknown_option_lists_all_options_of_its_group(group: str, refuse: Callable[..., str]) -> None:
    message = refuse(f"{group}=nosuchoption")
    assert message.startswith(f"{group}=nosuchoption is not one of ")
    assert all(path.stem in message for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("model=gpt2-small", "gpt2_small"),
        ("optimizer=adamW", "adamw"),
        ("trainer=cuda", "gpu"),
        ("logger=comet", None),
        ("model=gpt2", "gpt2_small"),
        ("positional_encoding=rope", "rotary"),
        ("data=text", "text_file"),
    ],
)
def test_an_unknown_option_suggests_the_closest_option(
    typed: str, meant: str | None, refuse: Callable[..., str]
) -> None:
    message = refuse(typed)
    assert message.endswith(f"; did you mean {meant}?") == (meant is not None)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("seed=one", "seed=one must be a valid integer"),
        ("seed=null", "seed=null must be a valid integer"),
        ("deterministic=maybe", "deterministic=maybe must be a valid boolean"),
        ("optimizer.betas=[0.9,2]", "optimizer.betas.1=2 must be less than 1"),
        ("resume=", "resume= must have at least 1 character"),
        ("optimizer.name=adamm", "optimizer.name=adamm is not one of adam, adamw, sgd, muon; did you mean adam?"),
        (
            "trainer.precision=bf16",
            "trainer.precision=bf16 is not one of auto, 32-true, mixed, bf16-mixed, 16-mixed; did you mean bf16-mixed?",
        ),
        (
            "positional_encoding.name=lerned",
            "positional_encoding.name=lerned is not one of alibi, concatenated,",
        ),
    ],
)
def test_an_invalid_value_is_reported_with_key_value_and_rule(
    typed: str, answer: str, refuse: Callable[..., str]
) -> None:
    assert refuse(typed).startswith(answer)


def test_the_first_of_several_mistakes_is_reported_and_the_others_counted(refuse: Callable[..., str]) -> None:
    assert refuse("seed=one", "dry_run=2").count("(and ") == 0
    assert refuse("+a_key=1", "+b_key=2").endswith("(and 1 more like it)")


@pytest.mark.parametrize("override", ["seed=[1", "a b"])
def test_an_override_that_cannot_be_parsed_is_quoted(override: str, refuse: Callable[..., str]) -> None:
    assert repr(override) in refuse(override)


def test_rules_between_keys_are_checked_when_a_config_is_loaded(refuse: Callable[..., str]) -> None:
    assert refuse("trainer.devices=3").startswith("training.batch_size=8 must be")


@pytest.fixture
def run_folder(load: Load, tmp_path: Path) -> Path:
    config = load("model=debug", "schedule=constant", "seed=5", "training.max_steps=20")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
    return tmp_path


def test_a_resumed_run_keeps_its_config_except_for_the_overrides(load: Load, run_folder: Path) -> None:
    # 40 steps are fewer than the warm-up of the default config, which is not that of the run.
    composed = load(f"resume={run_folder}", "training.max_steps=40", "trainer=cpu", "logger=none")
    resumed = load_resumed_config(composed, run_folder)
    original = load("model=debug", "schedule=constant", "seed=5", "training.max_steps=20")
    expected = original.model_dump()
    expected["training"]["max_steps"] = 40
    expected |= {"trainer": composed.model_dump()["trainer"], "logger": {}}
    assert resumed.model_dump() == expected


def test_a_resumed_run_writes_where_its_command_says_and_not_where_its_folder_says(
    load: Load, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((run_folder / "config.yaml").read_text())
    values["paths"] = {"data_dir": str(tmp_path), "output_dir": str(tmp_path)}
    (run_folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert load_resumed_config(load(f"resume={run_folder}"), run_folder).paths == load().paths
    assert f"add paths.data_dir={tmp_path} to use that" in capsys.readouterr().err
    typed = load_resumed_config(load(f"resume={run_folder}", f"paths.data_dir={tmp_path}"), run_folder)
    assert typed.paths.data_dir == str(tmp_path)
    assert capsys.readouterr().err == ""


def test_dry_run_and_resume_are_not_kept_by_a_resumed_run(load: Load, run_folder: Path) -> None:
    dry = load_resumed_config(load(f"resume={run_folder}", "dry_run=true"), run_folder)
    assert dry.dry_run
    (run_folder / "config.yaml").write_text(yaml.safe_dump(dry.model_dump()))
    resumed = load_resumed_config(load("resume=latest"), run_folder)
    assert (resumed.dry_run, resumed.resume) == (False, None)


@pytest.mark.parametrize(
    "override",
    ["seed=2", "model=mini", "++model.dropout=0.1", "optimizer.learning_rate=0.1", "tokenizer=char", "name=x"],
)
def test_a_resumed_run_refuses_to_become_another_experiment(override: str, load: Load, run_folder: Path) -> None:
    composed = load(f"resume={run_folder}", override)
    with pytest.raises(ConfigError) as caught:
        load_resumed_config(composed, run_folder)
    assert str(caught.value).startswith(f"{override}: a resumed run keeps its experiment")


def test_a_resumed_run_is_checked_with_its_overrides(load: Load, run_folder: Path) -> None:
    composed = load(f"resume={run_folder}", "training.micro_batch_size=5")
    with pytest.raises(ConfigError, match=r"training\.micro_batch_size=5"):
        load_resumed_config(composed, run_folder)


def test_resumable_keys_exist(load: Load) -> None:
    values = load().model_dump()
    for key in RESUMABLE_KEYS:
        section, _, rest = key.partition(".")
        assert rest in values[section] if rest else section in values


def test_a_run_resumes_only_on_its_own_text(tmp_path: Path) -> None:
    (tmp_path / "preflight.json").write_text('{"text_sha256": "abc"}')
    check_same_text(tmp_path, "abc")
    with pytest.raises(ConfigError, match="not the one that the run started with"):
        check_same_text(tmp_path, "abd")


@pytest.mark.parametrize("error", [FolioError("a key is wrong"), ConfigError("a key is wrong")])
def test_an_error_that_the_user_can_fix_is_one_line_and_exit_code_2(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    @one_line_errors
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: a key is wrong\n")


@pytest.mark.parametrize("error", [AssertionError(), ValueError("ours"), KeyError("ours"), KeyboardInterrupt()])
def test_a_bug_of_ours_keeps_its_traceback(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def command() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        command()
    assert caught.value is error
    assert capsys.readouterr() == ("", "")


def test_a_fault_of_composing_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra answers some words with any Python error."""

    def fail(**arguments: object) -> None:
        raise TypeError("a word that Hydra cannot take")

    monkeypatch.setattr("hydra._internal.config_loader_impl.create_defaults_list", fail)
    with pytest.raises(SystemExit), initialize_config_dir(str(CONF), version_base="1.3"):
        one_line_errors(compose)("train")
    assert capsys.readouterr().err.startswith("error: cannot compose the config: a word that Hydra cannot take")


def test_a_bug_of_ours_inside_hydra_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweeper and the reader of conf/ are our code, which Hydra calls."""
    monkeypatch.setattr("folio.cli.config_files.PROVIDERS", None)
    with pytest.raises(TypeError), initialize_config_dir(str(CONF), version_base="1.3"):
        one_line_errors(compose)("train")

    @one_line_errors
    def sweep() -> None:
        exec(compile("json.loads(3)", "x", "exec"), {"__name__": "folio.sweeps.search", "json": json})

    with pytest.raises(TypeError):
        sweep()


def test_a_successful_command_returns_its_value() -> None:
    assert one_line_errors(lambda number: number + 1)(1) == 2


@pytest.mark.parametrize(
    ("typed", "group", "dropped"),
    [
        (("experiment=nanogpt_shakespeare_char_cpu", "schedule=noam"), "schedule", "min_learning_rate"),
        (("experiment=nanogpt_shakespeare_char_cpu", "optimizer=sgd"), "optimizer", "betas"),
        (("experiment=speedrun_char_cpu", "schedule=cosine"), "schedule", "decay_share"),
        (("optimizer=adamw", "experiment=speedrun_char_cpu"), "optimizer", "adamw_learning_rate, split_fused"),
    ],
)
def test_a_recipes_keys_for_a_replaced_option_are_dropped_with_a_message(
    typed: tuple[str, ...], group: str, dropped: str, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(*typed)
    chosen = next(word.partition("=")[2] for word in typed if word.startswith(group))
    assert getattr(config, group).name == chosen
    assert not any(hasattr(getattr(config, group), key) for key in dropped.split(", "))
    assert capsys.readouterr().out.startswith(f"{group}={chosen} has no {dropped}: ")


def test_an_override_of_a_key_of_a_replaced_option_is_refused(refuse: Callable[..., str]) -> None:
    message = refuse("experiment=nanogpt_shakespeare_char_cpu", "optimizer=sgd", "optimizer.betas=[0.1,0.2]")
    assert message.startswith("optimizer.betas is a key of another optimizer")


def test_an_error_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def command() -> None:
        raise FolioError("a\nb\x1b[2J\udcff\u202e")

    with pytest.raises(SystemExit):
        command()
    assert capsys.readouterr().err == r"error: a\nb\x1b[2J\udcff\u202e" + "\n"
