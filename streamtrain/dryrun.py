"""What a run would do: files, rows, bytes, and the time of one read. Trains nothing and writes nothing."""

import time

import numpy as np

from streamtrain.config import Config
from streamtrain.passes import NO_LAST_ROW, prepare
from streamtrain.sweep import learning_rates
from streamtrain.units import format_bytes, format_count, format_seconds


def plan_text(config: Config, verb: str) -> str:
    """A few lines for people. Raises what the run itself would raise before its first step."""
    sizes, rates, trials = ((config.train.batch_size,), (0.0,), 1) if verb == "train" else (
        config.sweep.batch_sizes, learning_rates(config), config.sweep.trials)  # fmt: skip
    prepared = prepare(config, learners=len(sizes), rates=len(rates))
    source, budget = prepared.source, prepared.budget
    span = source.spans[0]
    started = time.perf_counter()
    source.read(span)
    read_rate = span.num_rows / max(time.perf_counter() - started, 1e-9)
    dataset, plan = source.dataset, prepared.plan(0, 0)
    decoded = dataset.num_rows * len(dataset.columns) * np.dtype(dataset.decoded_type).itemsize
    bounded = prepared.last_row < NO_LAST_ROW
    lines = [
        f"data       {dataset.num_rows:,} rows in {len(dataset.shards):,} {dataset.shards[0].format} shards; {format_bytes(decoded)} decoded;"
        f" integrity {dataset.integrity}",
        f"columns    {', '.join(dataset.features)} → {dataset.target}",
        f"order      {len(source.spans):,} spans in {len(plan):,} windows of at most {prepared.window_rows:,} rows",
        f"held out   {0 if prepared.evaluation is None else len(prepared.evaluation):,} rows",
        f"memory     {format_bytes(budget.projected_bytes)} projected, {format_bytes(budget.limit_bytes)} allowed;"
        f" {budget.windows} windows in flight, {budget.readers} readers",
        f"work       {trials} trial(s) x {len(sizes)} batch size(s) x {len(rates)} learning rate(s) = {trials * len(sizes) * len(rates)} models"
        + (f", {prepared.last_row:,} rows each; one pass a trial" if bounded else ", until the clock ends"),
        f"reading    one span at {format_count(read_rate)} rows/s a thread"
        + (f"; a pass takes at least {format_seconds(prepared.last_row / read_rate / budget.readers)}" if bounded else ""),
    ]
    return "\n".join(lines)
