"""The version of Folio, which checkpoints and metrics.json record."""

VERSION = "0.1.0"
