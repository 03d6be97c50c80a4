"""The measured numbers: as JSON, as tables and as plots."""
