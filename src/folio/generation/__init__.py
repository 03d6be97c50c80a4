"""Text from a trained model. `generate` is the way in; `sampling` and `prompts` need no torch."""
