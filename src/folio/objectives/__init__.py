"""What a model is trained to predict: the batches it reads, the loss it minimizes, and the metrics of a split."""
