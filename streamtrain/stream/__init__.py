"""Shuffled blocks of rows, delivered from shards in the order of a plan.

`open_source` opens a data set, `take_survey` reads the held-out rows and the column statistics
once, and `fetch` builds windows into `Block`s with Dask, ahead of use. `Stream` cuts the blocks
into torch minibatches.
"""
