"""The schema of summary.json: it is made from the types, and refuses what they do not allow."""

import copy
import json
from dataclasses import dataclass, field, make_dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import Field

from streamtrain.records import OPTIONAL, json_fields, to_json
from streamtrain.report import summary_parts
from streamtrain.report.analysis import Summary, strict
from streamtrain.report.summary import summarize
from streamtrain.report.summary_schema import field_texts, object_schema, summary_schema
from streamtrain.science import landmarks_json
from streamtrain.science.intervals import Estimate
from tests.report.synthetic import make_records, with_measures

SCHEMA = files("streamtrain.report").joinpath("schema.json")


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(summary_schema())


@pytest.fixture(scope="module")
def whole():
    records = make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05, 0.1])
    return json.loads(json.dumps(summarize(with_measures(records))))


def test_the_schema_in_the_package_is_that_of_the_types():
    """After a change:
    `python -m streamtrain.report.summary_schema > streamtrain/report/schema.json`.
    """
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == summary_schema()
    jsonschema.Draft202012Validator.check_schema(summary_schema())


def test_every_key_is_described():
    schema = summary_schema()
    objects = {"Summary": schema, **schema["$defs"]}
    missing = [
        f"{name}.{key}"
        for name, one in objects.items()
        for key, value in one["properties"].items()
        if "description" not in value
    ]
    assert missing == []
    assert {"CellFigures", "Estimate", "LandmarksJson", "Workers"} < objects.keys()


def test_the_keys_are_those_that_are_written(whole):
    assert list(summary_schema()["properties"]) == list(whole)
    assert to_json(Estimate(value=1.0)) == strict(Estimate(value=1.0))
    assert list(json_fields(Estimate)) == [*strict(Estimate(value=1.0)), "kind"]


def change(document: Any, path: str, value: Any) -> Any:
    """The document with another value at a path such as `cells.0.lr`; without the key for `...`."""
    document = copy.deepcopy(document)
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = document
    for part in above:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 99),
        ("verb", "walk"),
        ("new_key", 1),
        ("workers", ...),
        ("trials", None),
        ("target_loss_chosen", "guessed"),
        ("lr_rules", ["cubic"]),
        ("read_bytes", -1),
        ("stream_seconds", {"decode_seconds": "1"}),
        ("cells.0.status", "tired"),
        ("cells.0.batch_size", 0),
        ("cells.0.lr", None),
        ("cells.0.wait_fraction", ...),
        ("cells.0.holdout_loss.kind", "fieller"),
        ("cells.0.holdout_loss.n", -1),
        ("cells.0.holdout_loss.hi", ...),
        ("other_targets.0.cells.0.speed", 1),
        ("best_linear_loss.scored_on", "rows"),
        ("recommendation.not_chosen", {"256": 1}),
        ("recommendation.more_trials", 0.5),
        ("landmarks.laws.kink", 4.0),
        ("landmarks.laws.misfit", "small"),
        ("landmarks.laws.alpha_seconds", {}),
        ("landmarks.goodput.0.rows_per_second", ...),
        ("landmarks.premise", ...),
        ("receipts.0.digest", 12),
        ("data.rows", 12),
        ("warnings.0.flag", ...),
        ("arms", {"fixed": [{}]}),
    ],
)
def test_a_wrong_document_is_refused(validator, whole, path, value):
    validator.validate(whole)
    assert not validator.is_valid(change(whole, path, value))


def test_a_law_has_the_kind_of_its_interval(validator, whole):
    validator.validate(change(whole, "landmarks.laws.kink", None))
    kinds = [law["kind"] for law in whole["landmarks"]["laws"].values() if isinstance(law, dict)]
    assert kinds


@dataclass(frozen=True)
class Planted:
    """A class of this test; None of it is real.

    Attributes:
        size: Rows, which are
            many.
        name: None without one.
    """

    size: Annotated[int, Field(ge=1, le=9)]
    name: Literal["a", "b"] | None
    pairs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    extra: str = field(default="", metadata=OPTIONAL)


def test_a_field_is_all_that_a_new_key_needs():
    assert object_schema(Planted, {}) == {
        "type": "object",
        "description": "A class of this test; null of it is real.",
        "properties": {
            "size": {
                "type": "integer",
                "minimum": 1,
                "maximum": 9,
                "description": "Rows, which are many.",
            },
            "name": {
                "anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}],
                "description": "null without one.",
            },
            "pairs": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "integer"}},
            },
            "extra": {"type": "string"},
        },
        "required": ["size", "name", "pairs"],
        "additionalProperties": False,
    }


def test_a_description_of_no_field_and_a_type_without_a_form_are_refused():
    renamed = make_dataclass("Renamed", [("size", int)], namespace={"__doc__": Planted.__doc__})
    with pytest.raises(ValueError, match="Renamed describes fields that it does not have"):
        object_schema(renamed, {})
    with pytest.raises(TypeError, match="does not say"):
        object_schema(make_dataclass("Vague", [("anything", Any)]), {})


def test_every_class_of_the_summary_says_what_it_is():
    parts = [
        kind
        for module in (summary_parts, landmarks_json)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    names = summary_schema()["$defs"].keys()
    assert {kind.__name__ for kind in parts} <= names
    assert all(field_texts(kind)[0] for kind in [Summary, *parts])
