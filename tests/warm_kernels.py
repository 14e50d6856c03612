"""Compile every Numba kernel into the disk cache, once, before processes of tests need them.

`make test` runs it beside the linters: on a fresh machine compiling takes half a minute, and each
worker of pytest and each process that a test starts would do it again.
"""

import tempfile
from pathlib import Path

import numpy as np

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.kernels.span_sums import sum_span
from streamtrain.run.prepare import prepare
from streamtrain.run.warm_up import warm_up
from streamtrain.storage.write.shuffled import LEAF_ROWS, permuted
from streamtrain.stream.nulls import as_uniform_views


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "data", kind="linear", rows=4_000, span_rows=1_000)
        config = make_config(
            {"data": {"path": f"{folder}/data", "holdout": 100}, "model": {"hidden": [4]}}
        )
        # a shared minibatch of several threads is another kernel
        warm_up(prepare(config, learners=1, rates=1), sizes=(64, 4096))
    # a table of text is float64
    sum_span(as_uniform_views(tuple(np.zeros((2, 8)))), np.zeros(2), np.empty(0, dtype=np.int64))
    permuted(np.zeros((2 * LEAF_ROWS, 1), dtype=np.uint32), key=0)


if __name__ == "__main__":
    main()
