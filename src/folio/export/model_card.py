"""The model card of an exported model: README.md with what a reader of the folder wants to know."""

from pathlib import Path
from typing import TYPE_CHECKING

from folio.models.formats.choice import FormatPlan
from folio.objectives.metrics import format_rows
from folio.runtime.terminal import printable
from folio.runtime.version import VERSION

if TYPE_CHECKING:
    from folio.runs.checkpoints import LoadedCheckpoint


def model_card(trained: "LoadedCheckpoint", plan: FormatPlan, verified: str, name: str) -> str:
    """Return the card in Markdown, with the metadata that the hub of Hugging Face reads."""
    config, model = trained.config, trained.model
    data = config.data.name if config.data.path is None else f"{config.data.name} ({Path(config.data.path).name})"
    rows = [
        ("architecture", plan.format.architecture),
        ("parameters", f"{model.n_parameters:,}"),
        ("layers, heads, width", f"{model.config.n_layers}, {model.config.n_heads}, {model.config.d_model}"),
        ("context length", f"{model.config.context_length:,} tokens"),
        ("tokenizer", f"{trained.tokenizer.name}, {trained.tokenizer.vocab_size:,} symbols"),
        ("training data", data),
        ("training", f"{trained.step:,} steps of {config.training.batch_size} sequences"),
        *format_rows({f"val/{metric}": value for metric, value in trained.val.items()}, "val/"),
    ]
    table = "\n".join(f"| {title} | {_cell(value)} |" for title, value in rows)
    equal = "".join(f"\n- {line}" for line in plan.descriptions)
    changed = f"\nThe model was written in an equal form, which this architecture has:\n{equal}\n" if equal else ""
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- folio
---

# {_cell(name)}

A language model trained from scratch with Folio {VERSION}.

| | |
|---|---|
{table}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{_cell(name)}")
model = AutoModelForCausalLM.from_pretrained("{_cell(name)}")
tokens = tokenizer("{_cell(config.callbacks.samples.prompt)}", return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=100, do_sample=False)[0]))
```

The model knows only its training data. It predicts the next token; it was not trained to follow instructions.
{changed}
Verified: {verified}.
"""


def _cell(text: str) -> str:
    """Return text that ends no cell, no line and no quotes."""
    return printable(text, keep="").replace("|", "\\|").replace('"', "'").replace("`", "'").replace("<", "&lt;")
