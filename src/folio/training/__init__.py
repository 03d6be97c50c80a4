"""Objectives, optimizers, schedules, and the run that Lightning drives with them."""
