"""From text to batches.

- `corpora/` turns a text, or many files of documents, into token files, with one of the `tokenizers/`.
- `token_file` and `sharded_tokens` map the token files into memory; `prepared` holds both splits and their tokenizer.
- `batches/` makes the batches of each objective from the tokens.

Only `batches/` imports torch, so mistakes in the data are reported at once.
"""
