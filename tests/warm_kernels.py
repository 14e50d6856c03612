"""Compile every Numba kernel into the disk cache, once, before processes of tests need them.

`make test` runs it beside the linters: on a fresh machine compiling takes half a minute, and each
worker of pytest and each process that a test starts would do it again.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.kernels.permute import permute
from streamtrain.kernels.shuffle import deal
from streamtrain.kernels.span_sums import sum_span
from streamtrain.run.prepare import prepare
from streamtrain.run.warm_up import warm_up
from streamtrain.storage.write.shuffled import LEAF_ROWS, permuted
from streamtrain.stream.nulls import as_uniform_views

_NONE = np.empty(0, dtype=np.int64)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "data", kind="linear", rows=4_000, span_rows=1_000)
        config = make_config(
            {"data": {"path": f"{folder}/data", "holdout": 100}, "model": {"hidden": [4]}}
        )
        # a shared minibatch of several threads is another kernel
        warm_up(prepare(config, learners=1, rates=1), sizes=(64, 4096))
    permuted(np.zeros((2 * LEAF_ROWS, 1), dtype=np.uint32), key=0)
    deliver()


def deliver(rows: int = 16) -> None:
    """Sum, deal and permute a few rows of every type and layout that a format is decoded to.

    Float64 is of tables of text, strided columns of 2-D arrays. Loops over 5 columns are unrolled;
    8 columns stand for every number that is passed by address.
    """
    for width, dtype, step in itertools.product((5, 8), (np.float32, np.float64), (1, 2)):
        columns = as_uniform_views(tuple(np.zeros((width, rows * step), dtype=dtype)[:, ::step]))
        zeros, starts = np.zeros(width), np.zeros(1, dtype=np.int64)
        sum_span(columns, zeros, _NONE)
        block, cursors = np.empty((rows, width), dtype=np.float32), starts.copy()
        key = np.uint64(0)
        deal(columns, _NONE, 0, 0, key, key, cursors, block, zeros, zeros, key)
        permute(block, starts, cursors, key)


if __name__ == "__main__":
    main()
