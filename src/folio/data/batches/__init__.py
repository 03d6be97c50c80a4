"""From tokens to batches: every batch is a pure function of (seed, step).

`windows` cuts a token array into windows and says which of them make up the batch of a step; `masking` (over `lines`)
and `prefixes` make the batches of the other objectives, and `mixture` draws from several corpora. `loaders` wraps them
in PyTorch's DataLoader.
"""
