"""The parts of the benchmark, each of which adds its series to a `BenchmarkReport`.

hardware      the machine, and its fastest matrix products and copies
training      the parts step, overhead and memory
operations    the parts data and loss
generation    tokens/s
startup       the time to the first output
scaling       a step against one size at a time
preparation   the part prepare: text into tokens
quality       the training time to a validation loss
"""
