"""Compare the cost of a sweep with the same runs in a plain PyTorch script. Run by hand.

    streamtrain generate runs/cost-data --kind friedman2 --rows 2M
    python tests/benchmarks/sweep_cost.py runs/cost-data

8 minibatch sizes x 5 learning rates x 3 trials, all 120 models over all rows (no halving, tuning
passes only), one epoch. The script has its rows in memory and a DataLoader with a batch-index
sampler (torch.utils.data, "Disable automatic batching"), Adam(fused=True), the same network, and
evaluates at the same rows on the same number of held-out rows. It takes too long to be run whole:
one model of every size is timed for at most `--sample-seconds`, and its seconds are scaled to all
rows and to the 15 models of that size. Both use at most two threads; the script is timed with one
and with two, and the faster one counts. Sides take turns.

Not timed on either side: imports, compilation, opening and standardising the data. Timed for the
sweep: reading, shuffling, training, evaluating. Timed for the script: batches, training,
evaluating; but not its first three minibatches, its reading, or its permutation of indices.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import streamtrain as st
from streamtrain.errors import DataError
from streamtrain.training.learner import evaluation_rows

SIZES = (16, 64, 256, 1024, 4096, 16384, 65536, 262144)
RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
TRIALS = 3
EVALUATION_ROWS = 131_072

#: `eval.first_row` of both sides.
FIRST_ROW = 1024


def sweep_seconds(data: str) -> float:
    """Return the seconds of the tuning passes: reading, training and evaluating 120 models."""
    with tempfile.TemporaryDirectory() as folder:
        result = st.sweep(
            data,
            out=f"{folder}/run",
            batch_sizes=list(SIZES),
            lr_grid=list(RATES),
            trials=TRIALS,
            halving=False,
            extend_grid=False,
            rerun=False,
            confirm=False,
            measure="none",
            holdout=EVALUATION_ROWS,
        )
        records = [
            json.loads(line) for line in (result.out / "events.jsonl").read_text().splitlines()
        ]
    return sum(record["seconds"] for record in records if record["event"] == "pass")


class Script:
    """The plain script's data in memory.

    Raises DataError where no row is left beside those held out.
    """

    def __init__(self, data: str):
        table = pq.read_table(data)
        if table.num_rows <= EVALUATION_ROWS:
            raise DataError(
                f"{data} has {table.num_rows:,} rows, and both sides hold out {EVALUATION_ROWS:,}"
                " of them. Generate more, such as 2M."
            )
        rows = np.stack([table[name].to_numpy() for name in table.column_names], axis=1)
        rows = ((rows - rows.mean(axis=0)) / rows.std(axis=0)).astype(np.float32)
        self.held_out = torch.from_numpy(rows[:EVALUATION_ROWS])
        self.train = torch.from_numpy(rows[EVALUATION_ROWS:])

    def seconds(self, batch_size: int, threads: int, sample_seconds: float) -> float:
        """Return the seconds of one model over all rows, extrapolated from a sample.

        The sample is of its minibatches and of its evaluations.
        """
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 1),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.004, fused=True)
        dataset = TensorDataset(self.train[:, :-1], self.train[:, -1:])
        sampler = BatchSampler(RandomSampler(dataset), batch_size=batch_size, drop_last=False)
        started, rows = time.perf_counter(), 0
        warm_up, counted = 3, 0.0
        for i, (x, y) in enumerate(DataLoader(dataset, sampler=sampler, batch_size=None)):
            if i == warm_up:
                started, rows = time.perf_counter(), 0
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            rows += len(x)
            counted = time.perf_counter() - started
            if i > warm_up and counted > sample_seconds:
                break
        evaluations = []
        for _ in range(4):  # the first one warms up
            started = time.perf_counter()
            with torch.no_grad():
                torch.nn.functional.mse_loss(model(self.held_out[:, :-1]), self.held_out[:, -1:])
            evaluations.append(time.perf_counter() - started)
        points = len(list(evaluation_rows(FIRST_ROW, len(self.train))))
        return counted / rows * len(self.train) + points * statistics.median(evaluations[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample-seconds", type=float, default=2.0)
    parser.add_argument("--out", help="write the seconds of each repeat here, as JSON")
    options = parser.parse_args()
    try:
        script = Script(options.data)
    except DataError as error:
        parser.error(str(error))
    ours, theirs, sizes = [], [], []
    for _ in range(options.repeats):
        ours.append(sweep_seconds(options.data))
        seconds_per_model = {
            size: min(script.seconds(size, threads, options.sample_seconds) for threads in (1, 2))
            for size in SIZES
        }
        theirs.append(len(RATES) * TRIALS * sum(seconds_per_model.values()))
        sizes.append(seconds_per_model)
        print({size: round(seconds, 2) for size, seconds in seconds_per_model.items()}, flush=True)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    models = len(SIZES) * len(RATES) * TRIALS
    print(f"| {models} models over {len(script.train):,} rows | seconds |\n|---|---|")
    print(f"| streamtrain sweep, {TRIALS} passes | {statistics.median(ours):.1f} |")
    print(f"| plain PyTorch script, extrapolated | {statistics.median(theirs):,.0f} |")
    print(f"| ratio | {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |")
    if options.out:
        document = {
            "streamtrain_seconds": ours,
            "script_seconds": theirs,
            "script_seconds_a_model": sizes,
            "ratios": ratios,
        }
        Path(options.out).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
