"""From text to token files: one class for each kind of corpus that `data=...` can name.

- A single text (`single_text`: `NamedText`, `TextFile`) is checked, split by position and read in pieces by `text`.
- Many documents (`document_corpus`: `TextFiles`, `HuggingFaceDataset`) are found by `files`, taken out by `documents`,
  encoded by `tasks` into `staging`, assigned to a split by `split_documents`, and written as `shards`, which `manifest`
  describes. `parts` divides this among machines.
- `prepared_folder` opens what was prepared before, and `mixture` joins several corpora.

`preparation` is what they share, and says why there are two pipelines; `workers` spreads work over processors.
"""
