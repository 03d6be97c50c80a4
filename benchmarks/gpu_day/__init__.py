"""One check of Folio on a GPU, in less than nine minutes: scripts/gpu_check.py.

steps    what is checked and measured: commands, and what is read from the files that they leave
budget   runs a command for as long as it may take
day      runs the steps, and writes the JSON file after each
page     the GPU part of docs/performance.md, from that file
carry    what a machine without network needs
"""
