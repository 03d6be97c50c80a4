"""From a text to batches of token windows.

`prepare` turns a corpus into two token files and a tokenizer; `windows` cuts those files into batches.
Only `windows` (and what uses it) imports torch, so that a mistake in the data is reported at once.
"""
