"""Pictures of a run and of a model. `plots` and `attention` draw numbers; `inspection` gets them out of a model."""
