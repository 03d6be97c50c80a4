"""Text to token ids and back: one module for each tokenizer.

`base` says what a tokenizer has to do, `choice` which one a corpus is prepared with, and `state` how it is stored. To
add one, write a subclass of `base.Tokenizer` and a section of `folio.config.tokenizer` that names it.
"""
