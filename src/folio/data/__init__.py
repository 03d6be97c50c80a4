"""From a text to batches.

`prepare` turns a corpus into two token files and a tokenizer; `windows`, `masking` and `prefixes` make batches of
those files, one for each objective. Only `batch` and what uses it import torch, so that a mistake in the data is
reported at once.
"""
