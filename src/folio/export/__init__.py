"""Trained models in the formats of other programs, and as a page for a browser."""
