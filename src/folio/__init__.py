"""Folio trains GPT-style transformers from scratch: a Hydra + PyTorch Lightning research template."""

__version__ = "0.1.0"
