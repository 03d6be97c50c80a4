"""Generate text with a trained model. Start at `generate`; `sampling` and `prompts` need no torch."""
