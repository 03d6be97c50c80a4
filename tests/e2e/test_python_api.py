"""`folio.load` and `folio.train` give what the command line gives, and leave the process as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from workspace import ROOT, TINY, Run, Workspace

import folio

RECIPE = (*TINY, "training.max_steps=6", "training.validate_every_steps=3", "callbacks.samples.max_new_tokens=5")

PROGRAM = """
import json, os, signal, sys, threading
import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
import folio

RECIPE = json.loads(sys.argv.pop())

def refused(*words):
    try:
        folio.train(words)
    except folio.FolioError as error:
        return str(error)

@hydra.main(version_base="1.2", config_path=None)
def main(cfg: DictConfig) -> None:
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, signal.getsignal(signal.SIGINT), sys.stdout
    refusals = [refused("modle=nano"), refused("seed='"), refused("model=null"), refused("-m", "seed=1,2")]
    refusals += [refused(*RECIPE, "data.path=missing.txt")]
    assert "torch" not in sys.modules

    first = folio.train(RECIPE)
    import torch
    state = torch.random.get_rng_state()
    second = folio.train(" ".join(RECIPE) + " seed=2")
    assert torch.equal(state, torch.random.get_rng_state())

    from folio.training.callbacks.progress import DurationEstimate
    on_step_end = DurationEstimate.on_step_end
    def press_ctrl_c(self, trainer, module):
        on_step_end(self, trainer, module)
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
    DurationEstimate.on_step_end = press_ctrl_c
    try:
        folio.train([*RECIPE, "seed=3"])
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    DurationEstimate.on_step_end = on_step_end

    resumed = []
    thread = threading.Thread(target=lambda: resumed.append(folio.train(["resume=latest"])))
    thread.start()
    thread.join()
    after = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, signal.getsignal(signal.SIGINT), sys.stdout
    with open("result.json", "w") as file:
        json.dump({
            "refusals": refusals,
            "folders": [str(run.folder) for run in (first, second, *resumed)],
            "same process": all(one is other for one, other in zip(before, after)),
            "stopped": stopped,
            "losses": [run.metrics["val/loss_nats"] for run in (first, second, *resumed)],
            "opened": folio.load(first).step,
        }, file)

main()
"""


def test_training_from_python_gives_the_bits_of_the_command_line(workspace: Workspace) -> None:
    """In a function of another hydra.main: after errors, twice, stopped and resumed, the last in another thread."""
    (workspace.folder / "program.py").write_text(PROGRAM)
    finished = workspace.run(str(workspace.folder / "program.py"), json.dumps(RECIPE))
    assert finished.code == 0, finished.stdout + finished.stderr
    result = json.loads((workspace.folder / "result.json").read_text())
    assert all(refusal and "\n" not in refusal for refusal in result["refusals"])
    assert result["refusals"][0] == "modle is not a key of the config; did you mean model?"
    assert result["same process"]
    assert result["stopped"]
    assert result["opened"] == 6
    first, second, third = (Run(workspace.folder / folder) for folder in result["folders"])
    assert first.equals(workspace.train(*RECIPE))
    assert second.config["seed"] == 2
    assert not second.equals(first)
    assert third.metrics["status"] == "finished"
    assert third.metrics["step"] == 6
    assert third.equals(workspace.train(*RECIPE, "seed=3"))
    assert result["losses"] == [run.metrics["val/loss_nats"] for run in (first, second, third)]


def test_a_loaded_run_measures_what_training_measured_and_writes_what_the_script_writes(
    home: Workspace, finished_run: Run
) -> None:
    run = folio.load(finished_run.folder, device="cpu")
    assert run.metrics == finished_run.metrics
    assert run.config.model.name == "debug"
    assert run.step == finished_run.metrics["best/step"]
    (tokens,) = (home.folder / "data" / "tiny_shakespeare").glob("char/**/val.bin")
    loss = run.loss(run.tokenizer.decode(np.fromfile(tokens, "<u2").tolist()))
    assert loss.nats == pytest.approx(finished_run.metrics["best/val/loss_nats"], rel=1e-6)
    assert loss.bits_per_byte == pytest.approx(finished_run.metrics["val/bits_per_byte"], rel=1e-6)
    said = home.must("scripts/generate.py", "latest", "--prompt", "ROMEO:", "--seed", "4", "--max-new-tokens", "30")
    assert run.generate("ROMEO:", seed=4, max_new_tokens=30) + "\n" == said


def test_a_loaded_run_explains_a_text(finished_run: Run) -> None:
    run = folio.load(finished_run.folder / "checkpoints" / "last.ckpt", device="cpu")
    loss = run.loss("ROMEO", per_token=True)
    assert [token.token for token in loss.tokens] == list("OMEO")
    assert loss.nats == pytest.approx(sum(token.nats for token in loss.tokens) / 4)
    likeliest = run.next_tokens("ROMEO", k=3)
    assert [token.probability for token in likeliest] == sorted(
        (token.probability for token in likeliest), reverse=True
    )
    assert run.tokenizer.decode([likeliest[0].id]) == likeliest[0].token
    attention = run.attention("ROMEO")
    assert attention.tokens == attention.attended_tokens == list("ROMEO")
    assert attention.weights.shape[2:] == (5, 5)
    assert attention.weights.sum(axis=-1) == pytest.approx(1.0, rel=1e-5)
    assert len(attention.plot(layers=[0]).axes) > 1
    for wrong in (lambda: run.next_tokens("R", k=0), lambda: run.generate("R", max_new_tokens=0)):
        with pytest.raises(folio.FolioError):
            wrong()


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, workspace: Workspace) -> None:
    """Its cells run as a program, so that the test needs no Jupyter."""
    assert "# %% [markdown]" in notebook.read_text()
    finished = workspace.run(str(notebook), MPLBACKEND="agg")
    assert finished.code == 0, finished.stdout + finished.stderr
    assert "ROMEO:" in finished.stdout
    assert "did you mean model.n_layers?" in finished.stdout
