"""Records: they survive writing and reading, older logs parse, and a wrong field is named."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.errors import DataError
from streamtrain.records import (
    BatchStage,
    Evaluation,
    NullSummary,
    OtherRecord,
    PassEnded,
    Record,
    RunEnded,
    RunStarted,
    TargetWinners,
    WinningRates,
    parse_record,
    parsing,
)
from streamtrain.records.record import OPTIONAL
from streamtrain.types import Receipt

EVENTS = sorted(parsing.EVENTS.values(), key=lambda kind: kind.EVENT)
FILLED = {
    "stages": (BatchStage(first_row=0, batch_size=64),),
    "verb": "sweep",
    "sync": "rounds",
    "outcome": "finished",
    "kind": "tuning",
    "reason": "because",
}

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**53)
sizes = st.integers(min_value=1, max_value=2**53)
rates = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
evaluations = st.builds(
    Evaluation,
    trial=counts,
    batch_size=sizes,
    lr=rates,
    rows=counts,
    steps=counts,
    holdout_loss=st.none() | finite,
    holdout_rmse=st.none() | finite,
    train_loss=st.none() | finite,
    seconds=finite,
    wait_seconds=st.none() | finite,
)
passes = st.builds(
    PassEnded,
    kind=st.sampled_from(["tuning", "extension", "fresh"]),
    lrs=st.dictionaries(sizes, st.tuples(rates, rates), max_size=3),
    receipt=st.builds(
        Receipt,
        count=counts,
        digest=st.integers(0, 2**64 - 1),
        dropped=counts,
        quarantined=counts,
    ),
    stats=st.dictionaries(st.text(max_size=5), counts | finite, max_size=3),
    dropped=st.none() | st.builds(NullSummary, total=counts),
    workers=st.none() | counts,
)


def through_a_log(record: Record) -> Record:
    return parse_record(json.loads(json.dumps(record.to_json(), allow_nan=False)))


@given(evaluations | passes)
def test_a_log_gives_back_what_was_logged(record):
    assert through_a_log(record) == record


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.EVENT)
def test_every_event_starts_with_its_name_and_keeps_the_order_of_its_fields(kind):
    required = {
        field.name: FILLED.get(field.name, 1)
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    record = kind(**required)
    document = record.to_json()
    names = [field.name for field in dataclasses.fields(kind)]
    assert list(document) == ["event", *(name for name in names if name in document)]
    assert document["event"] == kind.EVENT
    optional = {field.name for field in dataclasses.fields(kind) if field.metadata == OPTIONAL}
    assert set(names) - set(document) <= optional
    assert through_a_log(record) == record


def test_winning_rates_hold_typed_targets():
    winners = WinningRates(targets=(TargetWinners(target_loss=None, lrs=(0.1,), at_edge=(True,)),))
    assert through_a_log(winners) == winners


def test_an_older_log_has_fewer_fields_and_a_newer_one_more():
    older = parse_record({"event": "run", "verb": "train", "batch_sizes": [64], "lrs": [[0.1]]})
    assert older == RunStarted(verb="train", batch_sizes=(64,), lrs=((0.1,),))
    newer = parse_record({"event": "end", "seconds": 1.5, "colour": "red"})
    assert newer == RunEnded(seconds=1.5)
    unknown = {"event": "tomorrow", "value": 1}
    assert parse_record(unknown) == OtherRecord(name="tomorrow", values={"value": 1})
    assert parse_record(unknown).to_json() == unknown


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"event": "evaluation"}, "`evaluation`: trial", id="missing"),
        pytest.param({"event": "run", "verb": "walk"}, "`run`: verb", id="not a choice"),
        pytest.param({"event": "round", "round": "x"}, "`round`: round", id="not a number"),
        pytest.param({"event": "pass", "lrs": [1]}, "`pass`: lrs", id="not a table"),
        pytest.param({"rows": 1}, "has no `event` that is text", id="no event"),
    ],
)
def test_a_wrong_field_is_named(values, words):
    with pytest.raises(DataError) as caught:
        parse_record(values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
