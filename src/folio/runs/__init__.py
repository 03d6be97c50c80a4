"""Run folders and their files: find, create, describe, checkpoint and rewind them. Imports no lightning."""
