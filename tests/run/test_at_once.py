"""How many passes run at once, and when they take turns."""

from dataclasses import replace

import pytest

from data_gen import generate
from streamtrain.base.budget import make_budget
from streamtrain.config import make_config
from streamtrain.run import at_once
from streamtrain.run.at_once import PassNeeds, needs_of, passes_at_once, share_gpu
from streamtrain.run.prepare import learner_bytes, prepare
from streamtrain.science.tuning import PassPlan
from streamtrain.training.cuda_fit import GpuRoom

MIB = 2**20
PLAN = PassPlan(kind="fresh", trial=3, lrs={32: (0.01,), 1024: (0.01, 0.02)})


def found(
    passes=8,
    *,
    learners=4,
    blocks=8,
    gpu_bytes=MIB,
    host_bytes=0,
    memory=2**30,
    cores=16,
    free=2**34,
):
    """Return what runs at once on a GPU of 132 multiprocessors; a window has 10 MiB."""
    sizes = {"window_rows": MIB // 2, "span_rows": 1, "num_columns": 5, "decoded_itemsize": 1}
    budget = make_budget(limit_bytes=memory, readers=cores, **sizes)
    needs = PassNeeds(learners=learners, blocks=blocks, gpu_bytes=gpu_bytes, host_bytes=host_bytes)
    return passes_at_once(passes, needs, budget, multiprocessors=132, free_bytes=free)


@pytest.mark.parametrize(
    ("options", "passes", "readers"),
    [
        pytest.param({}, 8, 2, id="all that there are"),
        pytest.param({"blocks": 40}, 3, 5, id="those that fill the multiprocessors"),
        pytest.param({"blocks": 66}, 2, 8, id="two halves"),
        pytest.param({"blocks": 67}, 1, 16, id="more than half"),
        pytest.param({"blocks": 500}, 1, 16, id="more than all"),
        pytest.param({"learners": 8}, 4, 4, id="a stream for each learner"),
        pytest.param({"learners": 33}, 1, 16, id="more learners than streams"),
        pytest.param({"passes": 1}, 1, 16, id="one"),
        pytest.param({"cores": 3}, 3, 1, id="a reader each"),
        pytest.param({"cores": 1}, 1, 1, id="one core"),
    ],
)
def test_as_many_as_fill_the_gpu(options, passes, readers):
    shared = found(**options)
    assert (shared.passes, shared.budget.readers, shared.reason) == (passes, readers, "")


@pytest.mark.parametrize(
    ("options", "passes", "says"),
    [
        pytest.param(
            {"free": 100 * MIB, "gpu_bytes": 9 * MIB},
            5,
            "5 passes of the sweep run at once instead of 8: the GPU does not hold"
            " the windows of more. End other programs on it,",
            id="the GPU's memory",
        ),
        pytest.param(
            {"free": 15 * MIB, "gpu_bytes": 9 * MIB},
            1,
            "1 pass of the sweep runs at once instead of 8: the GPU does not",
            id="one fits the GPU",
        ),
        pytest.param(
            {"memory": 145 * MIB},
            5,
            "5 passes of the sweep run at once instead of 8: --memory does not hold"
            " the windows of more. Raise it,",
            id="the host's memory",
        ),
        pytest.param({"memory": 301 * MIB, "host_bytes": 60 * MIB}, 4, "--memory", id="learners"),
        pytest.param({"memory": 200 * MIB, "host_bytes": 300 * MIB}, 1, "--memory", id="one fits"),
    ],
)
def test_fewer_where_memory_is_short_with_the_reason(options, passes, says):
    shared = found(**options)
    assert shared.passes == passes
    assert says in shared.reason
    assert shared.budget.projected_bytes <= options.get("memory", 2**30)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "data"
    generate(folder, kind="friedman2", rows=3000, span_rows=512)
    values = {
        "data": {"path": str(folder), "holdout": 500},
        "fetch": {"memory": "128MiB", "readers": 3},
        "model": {"hidden": [4]},
    }
    return prepare(make_config(values), learners=2, rates=2)


@pytest.fixture
def has_room(monkeypatch):
    """A GPU that is never full."""
    room = GpuRoom(multiprocessors=1000, free_bytes=2**34)
    monkeypatch.setattr(at_once, "room_of", lambda _engine, _train: room)


def test_a_pass_needs_its_window_and_each_learner_its_evaluation_rows(prepared):
    learners = learner_bytes(prepared.model, learners=2, rates=2)
    assert needs_of(prepared, PLAN) == PassNeeds(
        learners=2, blocks=3, gpu_bytes=3000 * 20 + learners + 2 * 500 * 20, host_bytes=learners
    )


def test_a_large_minibatch_fills_many_multiprocessors_alone(prepared):
    """Beside a small one, it is done long before that one is."""
    large = replace(PLAN, lrs={65_536: (0.01,), 131_072: (0.01, 0.02)})
    both = replace(PLAN, lrs={32: (0.01,), 131_072: (0.01, 0.02)})
    assert [needs_of(prepared, plan).blocks for plan in (large, both)] == [3 * 128, 3]


def test_passes_take_turns_on_the_cpu(prepared):
    assert share_gpu(prepared, PLAN, 3) is None
    assert share_gpu(replace(prepared, engine="torch"), PLAN, 3) is None


def test_passes_take_turns_where_their_results_would_depend_on_each_other(prepared, has_room):
    shared = share_gpu(prepared, PLAN, 3)
    assert shared is not None
    assert shared.passes == 3
    assert share_gpu(prepared, PLAN, 1) is None
    config, source = prepared.config, prepared.source
    limited = config.model_copy(update={"train": config.train.model_copy(update={"max_time": 9})})
    assert share_gpu(replace(prepared, config=limited), PLAN, 3) is None
    listing = replace(source, quarantine=object())
    assert share_gpu(replace(prepared, source=listing), PLAN, 3) is None
    shards = [replace(shard, url="s3://bucket/a.parquet") for shard in source.dataset.shards]
    stored = replace(source, dataset=replace(source.dataset, shards=tuple(shards)))
    assert share_gpu(replace(prepared, source=stored), PLAN, 3) is None
