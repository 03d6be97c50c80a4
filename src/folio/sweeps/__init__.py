"""Sweeps: many runs from one command, in a folder that records the status of each and can be resumed.

command_line.py turns Hydra's overrides into jobs (planning.py), or into the search space of a search (search.py).
runner.py launches the jobs that have no result yet, and prints a summary at the end. worker.py runs one job, and
isolation.py undoes what the job changed in its process. replay.py resumes a sweep: some words may be typed for that,
and words.py says which of them define the experiment. All of them use `sweep.json` (manifest.py).
"""
