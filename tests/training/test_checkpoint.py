"""A checkpoint is read back bit for bit; a learner continues from its state bit-identically."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from streamtrain.config import TrainConfig
from streamtrain.errors import DataError
from streamtrain.records import Evaluation
from streamtrain.training import learner as learner_module
from streamtrain.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fingerprint import array_hash, differences
from streamtrain.training.learner import Learner
from streamtrain.training.model import Shape, initial_parameters

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=6), inside, max_size=3)
    ),
    max_leaves=8,
)
ARRAYS = st.dictionaries(
    st.from_regex(r"[a-z0-9/]{1,12}", fullmatch=True),
    st.sampled_from(["<f4", "<f8", "<i8"]).flatmap(
        lambda kind: arrays_of.arrays(
            kind, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
        )
    ),
    max_size=4,
)


def contents(arrays) -> dict:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


@settings(max_examples=20)
@given(
    document=st.dictionaries(st.sampled_from(["state", "events", "seconds"]), JSON),
    arrays=ARRAYS,
    number=st.integers(0, 10**7),
)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, document, arrays, number):
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder, Checkpoint(number=number, document=document, arrays=arrays))
    read = read_checkpoint(folder, number)
    assert {name: read.document[name] for name in document} == document
    assert contents(read.arrays) == contents(arrays)
    assert list_checkpoints(folder) == [number]
    remove_checkpoint(folder, number)
    assert list(folder.iterdir()) == []
    assert list_checkpoints(folder / "absent") == []


def test_another_schema_is_refused_by_name(tmp_path):
    write_checkpoint(tmp_path, Checkpoint(number=0, document={}, arrays={}))
    text = (tmp_path / "000000.json").read_text()
    (tmp_path / "000000.json").write_text(
        text.replace('"schema_version": 1', '"schema_version": 2')
    )
    with pytest.raises(DataError, match="its hash does not match"):
        read_checkpoint(tmp_path, 0)
    with pytest.raises(DataError, match="No such file"):
        read_checkpoint(tmp_path, 1)


@given(
    was=st.dictionaries(st.text(max_size=3), JSON, max_size=4),
    now=st.dictionaries(st.text(max_size=3), JSON, max_size=4),
)
def test_differences_are_none_exactly_when_values_are_the_same(was, now):
    changed = {
        name
        for name in was.keys() | now.keys()
        if json.dumps(was.get(name), sort_keys=True) != json.dumps(now.get(name), sort_keys=True)
    }
    assert len(differences(was, now)) == len(changed)
    assert differences(was, dict(reversed(was.items()))) == []


def test_a_hash_is_of_bytes_type_and_shape():
    zeros = np.zeros(4, dtype=np.float32)
    assert array_hash(zeros) == array_hash(zeros.copy())
    assert array_hash(None) is None
    others = (zeros, zeros.reshape(2, 2), np.zeros(2), -zeros)
    assert len({array_hash(array) for array in others}) == 4


def make_learner(engine: str, rows: np.ndarray, batch_size: int = 8, **more) -> Learner:
    shape = Shape(widths=(4, 5, 1), activation="tanh")
    train = TrainConfig(optimizer="adam", engine=engine, compile="off")
    start, rates = initial_parameters(shape, 0, 0), (0.01, 0.03)
    trained = ENGINES[engine](shape, start, batch_size, rates, train, 600)
    return Learner(
        trained,
        trial=0,
        first_row=16,
        last_row=600,
        holdout=rows[:50],
        loss_scale=1.0,
        target_sd=2.0,
        keeps_best=True,
        **more,
    )


def without_seconds(items) -> list:
    return [replace(item, seconds=0) if isinstance(item, Evaluation) else item for item in items]


@pytest.mark.parametrize("patience", [None, 4], ids=["to the end", "patience"])
@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_a_learner_goes_on_from_every_edge(engine, patience, monkeypatch):
    """Blocks of 77 rows end within minibatches of 8; edges within a block come every 3 steps.

    With patience the learner ends early, at the same row.
    """
    monkeypatch.setattr(learner_module, "STEPS_BETWEEN_EDGES", 3)
    rows = np.random.default_rng(0).standard_normal((231, 5)).astype(np.float32)
    blocks = [(epoch, block) for epoch in range(3) for block in range(3)]

    def train(learner, start=(0, 0), first=0):
        """Train from row `first` of block `start` on.

        Returns what the learner yields, and for each edge (block, row, items before it, state).
        """
        items, edges = [], []
        for epoch, block in blocks[blocks.index(start) :]:
            edges.append(((epoch, block), first, len(items), learner.state()))
            block_rows = rows[block * 77 : (block + 1) * 77]
            while first < 77 and not learner.done:
                last = min(first + learner.rows_to_save, 77)
                items += learner.consume(block_rows, ends_epoch=block == 2, first=first, last=last)
                if last < 77:
                    edges.append(((epoch, block), last, len(items), learner.state()))
                first = last
            first = 0
        return without_seconds([*items, *learner.finish()]), edges

    def make():
        learner = make_learner(engine, rows, patience=patience)
        learner.engine.learning_rates = (0.01, 0.03) if patience is None else (0.3, 0.5)
        return learner

    whole = make()
    items, edges = train(whole)
    if patience is None:
        assert len(edges) > 25
        assert len(items) >= 20
    else:
        assert len(edges) > 9
        assert any(arrays["since_best"].any() for *_, (_, arrays) in edges)
        assert whole.rows < 600
        assert items[-1].reason.startswith("stopped early")
    for start, first, before, (document, arrays) in edges[:: 4 if patience is None else 1]:
        other = make()
        other.load_state(json.loads(json.dumps(document)), arrays)
        assert train(other, start, first)[0] == items[before:]
        assert other.engine.parameters().tobytes() == whole.engine.parameters().tobytes()
        assert other.best_parameters.tobytes() == whole.best_parameters.tobytes()
    document, arrays = edges[0][3]
    with pytest.raises(DataError, match="does not fit"):
        make_learner(engine, rows).load_state({**document, "batch_size": 9}, arrays)


def test_patience_and_the_best_parameters(monkeypatch):
    """At rates that are too high it ends after three evaluations and 48 rows without improvement.

    The best parameters are those of the smallest loss.
    """
    rows = np.random.default_rng(0).standard_normal((600, 5)).astype(np.float32)
    learner = make_learner("fused", rows, patience=3)
    learner.engine.learning_rates = (0.5, 0.9)
    items = list(learner.consume(rows, ends_epoch=True))
    evaluations = [item for item in items if isinstance(item, Evaluation)]
    losses = np.array([evaluation.holdout_loss for evaluation in evaluations]).reshape(-1, 2)
    since_best = len(losses) - 1 - losses.argmin(axis=0)
    assert learner.done
    assert learner.rows < 600
    assert (since_best >= 3).all()
    looks = np.array([evaluation.rows for evaluation in evaluations])[::2]
    waited = looks[:, None] - looks[losses.argmin(axis=0)]
    assert (waited[-1] >= 3 * 16).all(), "three times the rows of the first look"
    assert (waited[-2] < 3 * 16).any(), "as soon as that"
    assert [record.reason for record in learner.finish()] == [
        "stopped early: no smaller held-out loss in 3 evaluations"
    ] * 2
    learner.engine.load_state({**learner.engine.state(), "average": learner.best_parameters})
    assert learner.engine.evaluate(rows[:50]).tolist() == losses.min(axis=0).tolist()


def test_patience_counts_evaluations_after_a_step_only():
    """Evaluations come at 0, 16, 23, 32, …; the first step of 300 rows is at row 300."""
    rows = np.random.default_rng(0).standard_normal((600, 5)).astype(np.float32)
    learner = make_learner("fused", rows, batch_size=300, patience=2)
    items = list(learner.consume(rows, ends_epoch=True))
    steps = [item.steps for item in items if isinstance(item, Evaluation)]
    assert steps.count(0) > 2 * 3, "more than two looks before the first step"
    assert (learner.rows, learner.engine.steps) == (600, 2)


def test_patience_spans_rows_too():
    """Two looks at 23 and 32 rows are too early to give up after 16."""
    rows = np.random.default_rng(0).standard_normal((600, 5)).astype(np.float32)
    learner = make_learner("fused", rows, batch_size=1, patience=2)
    learner.engine.learning_rates = (0.9, 0.9)
    items = list(learner.consume(rows, ends_epoch=True))
    first = [item for item in items if isinstance(item, Evaluation)][::2]
    best = min(first, key=lambda item: item.holdout_loss)
    assert learner.done
    assert best.rows <= 16
    assert learner.rows - best.rows >= 2 * 16
