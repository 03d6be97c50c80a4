"""Measures Folio beside other programs that do the same: what `benchmarks/__main__.py` is made of.

    works, sides        what is done, and by whom
    worker, protocol    a side in a process of its own, and the lines by which it is asked
    loops, peers        bare loops, of Folio's model and of others'
    lightning_side      the whole path of train.py
    writers             the same for generation
    processes           the asking end
    steps, generation, startup, quality, scaling, micro, machine
                        the parts: each gives the rows of a `results.Report`
    arithmetic, results, tables, plots
                        what is made of the times

Like an entry point it stands above `folio.training`, and nothing of Folio imports it.
"""
