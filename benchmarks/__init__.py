"""Speed and memory of Folio beside other programs that do the same. Evidence for maintainers, not part of the package.

    __main__      the command line: python -m benchmarks [PART ...]
    workloads     the models and batches that are timed
    contenders/   the programs that are compared, each in a process of its own
    parts/        what is measured; each part adds its series to the report
    report/       the numbers as JSON, tables and plots
    gpu_day/      one check on a GPU, of which the benchmark is a part: scripts/gpu_check.py

Nothing in `src/` or `train.py` imports it, and of `scripts/` only gpu_check.py.
"""
