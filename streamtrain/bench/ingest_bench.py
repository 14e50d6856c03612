"""`streamtrain bench ingest`: the shuffle of `ingest` compared with a plain copy.

Both write the same rows to a folder that is removed afterwards, and take turns.
"""

import os
import tempfile
from functools import partial

from streamtrain.base.budget import default_limit_bytes, peak_rss_bytes, reset_peak_rss, rss_bytes
from streamtrain.bench.bench_verdict import figure, ratio_figure, require_positive
from streamtrain.bench.stream_bench import rate, take_turns
from streamtrain.storage.write.ingest import ingest
from streamtrain.types import Json


def measure_ingest(
    data: str,
    folder: str | None = None,
    *,
    target: str | None = None,
    memory: int | None = None,
    repeats: int = 5,
) -> Json:
    """Measure `ingest` of `data` into a new folder within `folder`, shuffled and as it is.

    `folder` is the current one by default. Peak memory is what the shuffle adds to the process.

    Raises ConfigError for fewer than one repeat, and whatever `ingest` raises.
    """
    require_positive("--repeats", repeats)
    memory = memory or default_limit_bytes()
    rows: list[int] = []
    peaks: list[int] = []

    def copy(seed: int | None) -> int:
        with tempfile.TemporaryDirectory(prefix="bench-ingest-", dir=folder or ".") as made:
            reset_peak_rss()
            before = rss_bytes()
            out = os.path.join(made, "out")
            rows.append(ingest(data, out, target=target, shuffle_seed=seed, memory=memory).num_rows)
            if seed is not None:
                peaks.append(max(0, peak_rss_bytes() - before))
            return rows[-1]

    sides = {
        "shuffled": partial(rate, partial(copy, 0)),
        "copy": partial(rate, partial(copy, None)),
    }
    samples = take_turns(sides, repeats, warm=[*sides])
    del peaks[0]  # the compiler's memory is not the shuffle's
    figures = {
        "rows_per_second": figure(samples["shuffled"]),
        "copy_rows_per_second": figure(samples["copy"]),
        "ratio_to_copy": ratio_figure(samples["shuffled"], samples["copy"]),
    }
    return {
        "data": data,
        "rows": rows[-1],
        "repeats": repeats,
        **{name: value["value"] for name, value in figures.items()},
        "peak_rss_bytes": max(peaks),
        "memory_budget_bytes": memory,
        "intervals": figures,
    }
