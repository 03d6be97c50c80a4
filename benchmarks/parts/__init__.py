"""The parts of the benchmark. Each adds its series to a `Report`."""
