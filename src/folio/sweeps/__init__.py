"""Many runs by one command: which they are, what became of each, and what is left to do. Knows nothing of Hydra."""
