"""`sweep=FOLDER`: what may be typed beside it, which jobs then run, and the command that is printed."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from folio.runtime.commands import python_command
from folio.runtime.errors import FolioError
from folio.sweeps import manifest
from folio.sweeps.manifest import OUTPUT_DIR
from folio.sweeps.planning import Job
from folio.sweeps.replay import check_extension, is_resumption, replay_command, resume_sweep_command, resumed_jobs
from folio.sweeps.words import varied_in

ROOT = Path(__file__).parents[2]
FIXED = ("model=debug", "trainer=cpu", "paths.data_dir=/elsewhere")
COMMAND = ["train.py", "-m", *FIXED, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def make_sweep(folder: Path, command: Sequence[str] = COMMAND, fixed: Sequence[str] = FIXED) -> Path:
    """Create a sweep of the jobs seed=1 and seed=2."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest.create_manifest(folder, command)
    manifest.add_jobs(folder, [Job(f"seed={seed}", (*fixed, f"seed={seed}")) for seed in (1, 2)])
    return folder


def test_a_sweep_is_resumed_with_its_launcher_and_without_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"{OUTPUT_DIR}/multirun/x"
    make_sweep(Path(place))
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    for typed in (["-m", "sweep=latest"], ["sweep=latest"], ["-m", f"sweep={place}"], ["-m", f"sweep='{place}'"]):
        assert replay_command(typed) == ["-m", *launcher, f"sweep={place}"]
    assert "paths.data_dir=/elsewhere of sweep.json is not used; type it, too" in capsys.readouterr().out
    assert replay_command(["-m", "hydra/launcher=basic", "sweep=latest"])[1:-1] == ["hydra/launcher=basic"]
    assert replay_command(["-m", "hydra.launcher.n_jobs=1", "dry_run=true", "sweep=latest"]) == [
        *("-m", launcher[0], "hydra.launcher.n_jobs=1", "dry_run=true", f"sweep={place}"),
    ]


def test_typed_words_replace_those_of_the_jobs_and_places_are_those_of_this_checkout(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    typed = ["trainer=gpu", "paths.data_dir=here", "dry_run=true"]
    assert is_resumption(typed)
    assert resumed_jobs(sweep, []) == [Job(f"seed={n}", ("model=debug", "trainer=cpu", f"seed={n}")) for n in (1, 2)]
    assert resumed_jobs(sweep, typed)[1] == Job("seed=2", ("model=debug", "seed=2", *typed))
    before = (sweep / "sweep.json").read_text()
    manifest.add_jobs(sweep, resumed_jobs(sweep, typed), {"seed"})
    assert (sweep / "sweep.json").read_text() == before


def test_a_key_that_the_sweep_varies_cannot_be_changed(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, ["train.py", "-m", "trainer.precision=32-true,bf16-mixed", "paths.data_dir=a,b"])
    with pytest.raises(FolioError, match=r"varies paths\.data_dir, trainer\.precision; leave it out"):
        resumed_jobs(sweep, ["trainer.precision=32-true"])


@pytest.mark.parametrize(
    "words",
    [["seed=3"], ["model=debug"], ["training.max_steps=30"], ["+model.d_ff=8"], ["dry_run=true,false"], ["~seed"]],
)
def test_other_words_are_those_of_a_command_that_is_typed_whole(words: list[str]) -> None:
    assert not is_resumption(words)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (
            [["seed=3"]],
            r"^seed=3 beside sweep=.*: a resumed sweep keeps its experiment; only .* \(it lacks model=debug\)",
        ),
        ([["model=debug", "seed=1", "training.max_steps=30"]], r"^training\.max_steps=30 beside sweep=.* may be added"),
        ([["model=nano", "seed=3"]], r"^model=nano: sweep=.* was started with model=debug; give the same, or start"),
    ],
)
def test_words_that_change_the_experiment_are_refused(jobs: list[list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=message):
        check_extension(make_sweep(tmp_path), jobs, {"seed"})


def test_the_whole_command_may_add_jobs_and_change_the_machine(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    check_extension(sweep, [["model=debug", "seed=3", "logger=csv"]], {"seed"})
    check_extension(sweep, [["model=debug", "seed=1"], ["model=nano", "seed=1"]], {"seed", "model"})


@pytest.mark.parametrize("word", ["experiment=../../x", "+hydra.callbacks.x._target_=joblib.load", "name=${oc.env:X}"])
def test_no_word_of_a_sweep_is_used_that_may_name_code(word: str, tmp_path: Path) -> None:
    in_command = make_sweep(tmp_path / "command", [*COMMAND, word])
    in_job = make_sweep(tmp_path / "job", fixed=[word])
    for sweep in (in_command, in_job):
        for typed in (["-m", f"sweep={sweep}"], [f"sweep={sweep}", "dry_run=true"]):
            with pytest.raises(
                FolioError, match=r"and is not read from sweep\.json; type the whole command with sweep="
            ):
                replay_command(typed)
        with pytest.raises(FolioError, match=r"is not read from sweep\.json"):
            resumed_jobs(sweep, [])


SEARCH = ["train.py", "-m", "model=debug", "hparams_search=optuna", "hparams_search.n_trials=3", "schedule=wsd,noam"]


def test_a_search_is_resumed_with_the_settings_that_it_has_now(tmp_path: Path) -> None:
    search = {"n_trials": 12, "prune": False, "n_startup_trials": 2, "objective": "val/loss_nats"}
    manifest.write_manifest(tmp_path, {"command": SEARCH, "jobs": [], "search": search})
    changed = ["hparams_search.prune=false", "hparams_search.n_startup_trials=2"]
    kept = ["-m", "model=debug", "hparams_search=optuna", "schedule=wsd,noam"]
    here = f"sweep={tmp_path}"
    assert replay_command(["-m", here]) == [*kept, "hparams_search.n_trials=12", *changed, here]
    typed = "hparams_search.n_trials=20"
    assert replay_command(["-m", typed, here]) == [*kept, *changed, typed, here]
    for value in ("${oc.env:X}", None, [1], "9" * 5000, -1):
        manifest.write_manifest(tmp_path, {"command": SEARCH, "jobs": [], "search": search | {"n_trials": value}})
        with pytest.raises(FolioError, match=r"sweep\.json is damaged"):
            replay_command(["-m", here])


def test_a_sweep_from_a_file_is_bounded_before_its_words_are_read(tmp_path: Path) -> None:
    jobs = [{"folder": f"j{n}", "overrides": ["name=" + "$" * 9000], "status": "missing"} for n in range(1001)]
    manifest.write_manifest(tmp_path, {"command": ["train.py"], "jobs": jobs})
    with pytest.raises(FolioError, match="1,001 jobs, and max_jobs=1000; give fewer values, or raise max_jobs"):
        replay_command(["-m", f"sweep={tmp_path}"])
    assert replay_command(["-m", "max_jobs=1001", f"sweep={tmp_path}"])[1] == "max_jobs=1001"


@pytest.mark.parametrize(
    ("word", "is_varied"),
    [
        *[(f"a={value}", True) for value in ("1,2", "range(1,4)", " choice(1)", "'x,y',z", "[1],[2]", "interval(0,1)")],
        *[(f"a={value}", False) for value in ("1", "'1,2'", '"a(b"', "[1,2]", "{a:1,b:[2,3]}", "a\\,b", "'it\\'s, x'")],
        *[("a=" + sign * 20_000, False) for sign in ("'", "\\'", "[", "{", '"')],
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_key_is_varied_if_it_has_several_values(word: str, is_varied: bool) -> None:
    assert varied_in([word]) == ({"a"} if is_varied else set())


def test_a_sweep_without_jobs_needs_the_whole_command(tmp_path: Path) -> None:
    manifest.create_manifest(tmp_path, COMMAND)
    with pytest.raises(FolioError, match=r"has no jobs yet; type the whole command with sweep="):
        replay_command(["-m", f"sweep={tmp_path}"])


@pytest.mark.parametrize(
    "typed",
    [
        *(["-m", "sweep=x", "seed=3"], ["-m", "seed=1,2"], ["seed=1"], [], ["--help"], ["--cfg", "job", "sweep=x"]),
        *(["-m", "sweep=null"], ["-m", "sweep="], ["~sweep"]),
    ],
)
def test_any_other_command_is_unchanged(typed: list[str]) -> None:
    assert replay_command(typed) == typed


@pytest.mark.parametrize(
    "name", ["10-00-00", "it's, odd", 'a "b" c', "a\\\\b", "back\\", '\\"', "${x}", "\\\\${x}", "ü~"]
)
def test_the_command_to_resume_can_be_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    place = tmp_path / name
    make_sweep(place)

    def printed(*typed: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["train.py", "-m", *typed])
        command = resume_sweep_command(place)
        assert command.startswith(f"{python_command()} train.py -m ")
        words = shlex.split(command.removeprefix(python_command()))[1:]
        assert len(resumed_jobs(manifest.find_sweep(str(place), tmp_path), [])) == 2
        assert replay_command(words)[-1] == words[-1]
        return words[1:-1]

    assert printed("seed=1,2", "model=debug") == []
    places = ("paths.output_dir='a b'", "paths.data_dir=x")
    assert printed("seed=1,2", *places) == list(places), "places are not read from sweep.json"
    odd = ("seed=1,2", "name=${oc.env:USER}", "hydra.launcher.pre_dispatch=1")
    assert printed(*odd) == list(odd), "nor are such words, so that the whole command is needed"
