"""Corpora larger than memory: files of many documents made into shards of tokens.

`files` finds them, `reading` takes their documents out, `staging` encodes these on all processors, `shards` writes
what is to be kept, and `corpus` is all of it, from a pattern of files to a folder that training opens.
"""
