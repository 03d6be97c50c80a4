"""The typed schema of the config: one module for each group of conf/, put together in `run`. Imports no torch."""
