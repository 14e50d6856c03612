"""The size of a task's payload: beyond a limit it is sent separately from the task."""

import numpy as np
import pytest

from streamtrain.cluster import dask_backend
from streamtrain.cluster.allreduce.lane_work import LaneTask, RankInfo
from streamtrain.cluster.local_sgd.round_worker import ShareTask, train_share
from streamtrain.cluster.local_sgd.rounds import Share
from streamtrain.cluster.sweep_slices import SweepItem
from tests.cluster.conftest import config_of, records
from tests.run.whole_runs import run_train

ARRAYS = {
    "parameters": np.zeros((2, 1000), dtype=np.float32),
    "moments": np.zeros((2, 2, 1000), dtype=np.float32),
}
SHARE = Share(number=0, windows=(), rows=0, ends_epoch=False)
GROUP = RankInfo(run="r", generation=0, rank=0, size=1, address=("", 0), timeout_seconds=1.0)
PAYLOADS = {
    "sweep": (
        SweepItem(number=0, batch_size=8, lrs=(0.1,), trial=0),
        "tuning",
        ({"rows": 3}, ARRAYS),
        20.0,
    ),
    "rounds": (
        train_share,
        ShareTask(share=SHARE, batch_size=8, lrs=(0.1,), trial=0, shares=1, state=ARRAYS),
    ),
    "allreduce": (
        print,
        LaneTask(
            batch_size=8,
            lrs=(0.1,),
            trial=0,
            lanes=1,
            keeps_best=True,
            group=GROUP,
            state=({"rows": 3}, ARRAYS),
        ),
    ),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_arrays_of_every_kind_of_work_are_counted(payload):
    assert dask_backend._nbytes(payload) == 2 * 4000 + 4 * 4000


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["rounds", "allreduce"])
def test_large_payloads_change_nothing(data, client, tmp_path, monkeypatch, sync):
    flags = {
        "batch_size": 512,
        "max_rows": 4000,
        "holdout": 1000,
        "window_rows": 1024,
        "hidden": "8,8",
        "memory": "64MiB",
        "sync": sync,
    }
    losses = []
    for limit in (2**23, 1):
        monkeypatch.setattr(dask_backend, "LARGE_BYTES", limit)
        out = tmp_path / str(limit)
        run_train(
            config_of(data, flags, cluster__shares=2, cluster__round_rows=1024), out, client=client
        )
        losses.append([evaluation["holdout_loss"] for evaluation in records(out, "evaluation")])
    assert losses[0] == losses[1]
    assert len(losses[0]) > 2
