# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps with Folio from Python
#
# Train two tiny models, look into one of them, and compare both. It takes less than a minute on a laptop's CPU.
#
# VS Code and PyCharm open this file as a notebook. For Jupyter: `pip install jupytext jupyter`, then
# `jupytext --to notebook notebooks/first_steps.py`. It also runs as a program: `python notebooks/first_steps.py`.

# %%
import matplotlib.pyplot as plt

import folio

# %% [markdown]
# ## Train
#
# `folio.train` takes the words of the command line. A mistake raises a `FolioError` with one line.

# %%
recipe = ["model=debug", "model.d_model=32", "model.context_length=32", "tokenizer=char", "trainer=cpu"]
recipe += ["training.max_steps=150", "training.validate_every_steps=150", "name=notebook"]

learned = folio.train([*recipe, "positional_encoding=learned"])
rotary = folio.train([*recipe, "positional_encoding=rotary"])

# %%
try:
    folio.train([*recipe, "model.n_layer=3"])
except folio.FolioError as error:
    print(error)

# %% [markdown]
# ## Load
#
# `folio.load` takes a run folder, a checkpoint file or `"latest"`.

# %%
run = folio.load(learned)
print(run)
print(run.config.positional_encoding.name, run.metrics["val/bits_per_byte"])

# %%
print(run.generate("ROMEO:", max_new_tokens=100, temperature=0.8, seed=1))

# %%
for token in run.next_tokens("To be, or not to b", k=5):
    print(f"{token.token!r:6} {token.probability:.3f}")

# %% [markdown]
# ## Look at attention
#
# `weights` has the shape (layers, heads, T, S).

# %%
attention = run.attention("To be, or not to be")
print(attention.weights.shape)
attention.plot()

# %% [markdown]
# ## Compare two runs
#
# `folio.runs` lists the configs and metrics of a folder; `.to_pandas()` makes a table of them.

# %%
runs = [record for record in folio.runs("outputs") if record.folder in (learned.folder, rotary.folder)]
for record in runs:
    print(record.config["positional_encoding.name"], f"{record.metrics['val/loss_nats']:.3f} nats")

# %% [markdown]
# Which letters of a sentence surprise each model?

# %%
text = "To be, or not to be: that is the question."
figure, axes = plt.subplots(figsize=(10, 3))
for record in runs:
    loss = folio.load(record).loss(text, per_token=True)
    label = f"{record.config['positional_encoding.name']}: {loss.bits_per_byte:.2f} bits per byte"
    axes.plot([token.nats for token in loss.tokens], marker=".", label=label)
axes.set_xticks(range(len(text) - 1), list(text[1:]))
axes.set_ylabel("loss in nats")
axes.legend()
plt.show()
