"""Files, signals, memory and the terminal: what every other package may use, and what uses none of them."""
