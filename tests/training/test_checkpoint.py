"""A checkpoint gives back what was put in, bit for bit; a learner goes on from its state as if
nothing had happened.
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from streamtrain.config import TrainConfig
from streamtrain.errors import DataError
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


@settings(max_examples=20)
@given(
    document=st.dictionaries(st.sampled_from(["state", "events", "seconds"]), JSON),
    arrays=ARRAYS,
    number=st.integers(0, 10**7),
)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, document, arrays, number):
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder, Checkpoint(number=number, document=document, arrays=arrays))
    found = read_checkpoint(folder, number)
    assert {name: found.document[name] for name in document} == document
    assert {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in found.arrays.items()
    } == {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
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
    known = {
        name
        for name in was.keys() | now.keys()
        if json.dumps(was.get(name), sort_keys=True) != json.dumps(now.get(name), sort_keys=True)
    }
    assert len(differences(was, now)) == len(known)
    assert differences(was, dict(reversed(was.items()))) == []


def test_a_hash_is_of_bytes_type_and_shape():
    zeros = np.zeros(4, dtype=np.float32)
    assert array_hash(zeros) == array_hash(zeros.copy())
    assert array_hash(None) is None
    assert (
        len(
            {
                array_hash(zeros),
                array_hash(zeros.reshape(2, 2)),
                array_hash(np.zeros(2)),
                array_hash(-zeros),
            }
        )
        == 4
    )


def make_learner(engine: str, rows: np.ndarray, **more) -> Learner:
    shape = Shape(widths=(4, 5, 1), activation="tanh")
    train = TrainConfig(optimizer="adam", engine=engine, compile="off")
    made = ENGINES[engine](shape, initial_parameters(shape, 0, 0), 8, (0.01, 0.03), train, 600)
    return Learner(
        made,
        trial=0,
        first_row=16,
        last_row=600,
        holdout=rows[:50],
        loss_scale=1.0,
        target_sd=2.0,
        keeps_best=True,
        **more,
    )


def less_time(items) -> list:
    return [{**item, "seconds": 0} if isinstance(item, dict) else item for item in items]


@pytest.mark.parametrize("patience", [None, 4], ids=["to the end", "patience"])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_learner_goes_on_from_every_edge(engine, patience, monkeypatch):
    """Blocks of 77 rows end within minibatches of 8; edges within a block come every 3 steps.

    With patience it ends early, at the same row.
    """
    monkeypatch.setattr(learner_module, "STEPS_BETWEEN_EDGES", 3)
    rows = np.random.default_rng(0).standard_normal((231, 5)).astype(np.float32)
    places = [(epoch, block) for epoch in range(3) for block in range(3)]

    def go(learner, start=(0, 0), first=0):
        """Everything that is told from a place on, with the state at each edge; the state of a
        place is that before its block.
        """
        told, states = [], []
        for epoch, block in places[places.index(start) :]:
            states.append(((epoch, block), first, len(told), learner.state()))
            for item in learner.consume(
                rows[block * 77 : (block + 1) * 77], ends_epoch=block == 2, first=first
            ):
                told.append(item)
                if isinstance(item, int):
                    states.append(((epoch, block), item, len(told), learner.state()))
            first = 0
        return less_time([*told, *learner.finish()]), states

    def make():
        learner = make_learner(engine, rows, patience=patience)
        learner.engine.learning_rates = (0.01, 0.03) if patience is None else (0.3, 0.5)
        return learner

    whole = make()
    told, states = go(whole)
    if patience is None:
        assert len(states) > 25
        assert sum(isinstance(item, dict) for item in told) >= 20
    else:
        assert len(states) > 9
        assert any(arrays["since_best"].any() for *_, (_, arrays) in states)
        assert whole.rows < 600
        assert told[-1]["reason"].startswith("stopped early")
    for place, first, already, (document, arrays) in states[:: 4 if patience is None else 1]:
        other = make()
        other.load_state(json.loads(json.dumps(document)), arrays)
        assert go(other, place, first)[0] == told[already:]
        assert other.engine.parameters().tobytes() == whole.engine.parameters().tobytes()
        assert other.best_parameters.tobytes() == whole.best_parameters.tobytes()
    with pytest.raises(DataError, match="does not fit"):
        make_learner(engine, rows).load_state({**states[0][3][0], "batch_size": 9}, states[0][3][1])


def test_patience_and_the_best_parameters(monkeypatch):
    """A rate that makes things worse: it ends after three evaluations, and the best parameters are
    those of the smallest loss.
    """
    rows = np.random.default_rng(0).standard_normal((600, 5)).astype(np.float32)
    learner = make_learner("fused", rows, patience=3)
    learner.engine.learning_rates = (0.5, 0.9)
    records = [item for item in learner.consume(rows, ends_epoch=True) if isinstance(item, dict)]
    losses = np.array([record["holdout_loss"] for record in records]).reshape(-1, 2)
    since_best = len(losses) - 1 - losses.argmin(axis=0)
    assert learner.done
    assert learner.rows < 600
    assert (since_best >= 3).all()
    assert since_best.min() == 3
    assert [record["reason"] for record in learner.finish()] == [
        "stopped early: no smaller held-out loss in 3 evaluations"
    ] * 2
    learner.engine.load_state({**learner.engine.state(), "parameters": learner.best_parameters})
    assert learner.engine.evaluate(rows[:50]).tolist() == losses.min(axis=0).tolist()
