"""Speed and memory of Folio beside other programs that do the same. Evidence for maintainers, not part of the package.

    __main__      the command line: python -m benchmarks [PART ...]
    workloads     the models and batches that are timed
    contenders/   the programs that are compared, each in a process of its own
    parts/        what is measured; each part adds its series to the report
    report/       the numbers as JSON, tables and plots

Nothing in `src/`, `scripts/` or `train.py` imports it.
"""
