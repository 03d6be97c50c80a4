"""Figures of a run and of a model. `plots` and `attention` draw arrays; `inspection` reads them from a model."""
