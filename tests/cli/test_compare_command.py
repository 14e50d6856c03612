"""`streamtrain compare`: the table, the exit code of a crossed limit, JSON."""

import json

import pytest

from tests.report.synthetic import make_records


@pytest.fixture
def runs(tmp_path):
    """Two runs, `a` and `b`: `b` takes 50 % longer and its losses are 5 % higher."""
    for name, slower, higher in (("a", 1, 1), ("b", 1.5, 1.05)):
        (tmp_path / name).mkdir()
        records = make_records((256, 1024), target_loss=[0.1], trials=3)
        for record in records:
            if record["event"] in ("timing", "delivery"):
                record["seconds"] *= slower
            if record["event"] == "evaluation":
                record["holdout_loss"] *= higher
        (tmp_path / name / "events.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ("rows_per_second<-5%", 5),
        ("rows_per_second<-50%,holdout_loss>+10%", 0),
        ("holdout_loss>+1%", 5),
        ("seconds_to_target>+5%", 5),
        (None, 0),
    ],
)
def test_a_crossed_limit_is_exit_5(command, runs, limits, code):
    said = command("compare", "a", "b", *(["--fail-on", limits] if limits else []))
    assert said.code == code, said.err
    assert "slower, higher loss, later" in said.out
    assert "paired trial by trial" in said.out
    assert (
        said.err.startswith("error: 256: ")
        if code
        else not limits or said.err.startswith("within limits")
    )


def test_json_has_the_failures(command, runs):
    said = command("compare", "a", "b", "--json", "--fail-on", "holdout_loss>+1%")
    document = json.loads(said.out)
    assert said.code == 5
    assert len(document["failures"]) == 2
    assert document["fail_on"] == ["holdout_loss>+1%"]
    assert document["cells"][0]["holdout_loss"]["change"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("compare a absent", 2, "no events.jsonl"),
        ("compare a b --fail-on loss>1", 2, "write it like"),
        ("compare a", 2, "requires an argument"),
        ("compare a b --fail-on=", 2, "write it like"),
    ],
)
def test_a_wrong_comparison_is_one_line(command, runs, words, code, message):
    said = command(*words.split())
    assert said.code == code
    assert message in said.err
    assert said.err.count("\n") == 1
