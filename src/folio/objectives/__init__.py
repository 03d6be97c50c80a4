"""Training objectives: the batches that a model reads, the loss that it minimizes, and the metrics of a split."""
