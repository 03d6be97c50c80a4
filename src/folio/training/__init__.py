"""Training: what Lightning calls (module, data, callbacks, loggers), and the run that puts it together."""
