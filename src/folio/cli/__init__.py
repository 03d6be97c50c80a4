"""From a command line to a checked `RunConfig` and its data, and from an exception to one line. Imports no torch."""
