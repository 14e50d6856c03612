"""`streamtrain compare`: the table, the exit code of a crossed limit, JSON."""

import json

import pytest

import data_gen
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
    if limits is not None:
        assert said.err.startswith("error: 256: " if code else "within limits")


def test_runs_without_a_size_in_common_are_compared_as_wholes(command, tmp_path):
    """Real runs: two trainings, and a sweep. Limits are on sizes of both runs, and have none."""
    data_gen.generate(tmp_path / "d", kind="friedman2", rows=4_000, span_rows=1024, seed=1)
    quick = ("--hidden", "4", "--memory", "1GiB", "--no-report", "-q", "--max-rows", "8192")
    sweep = ("--trials", "2", "--lr-grid", "2", "--measure", "none", "--no-confirm")
    for out, words in {
        "small": ("train", "d", "--batch-size", "16"),
        "large": ("train", "d", "--batch-size", "512", "--seed", "3"),
        "other": ("train", "d", "--batch-size", "512", "--holdout-seed", "3"),
        "swept": ("sweep", "d", "--batch-sizes", "64,128", *sweep, "--target-loss", "0.9"),
    }.items():
        said = command(*words, *quick, "--out", out)
        assert said.code == 0, said.err
    said = command("compare", "small", "large")
    assert said.code == 0, said.err
    assert said.out.startswith("B's held-out loss is higher, ")
    assert "only in A: minibatch size 16\nonly in B: minibatch size 512" in said.out
    said = command("compare", "swept", "small", "--json")
    document = json.loads(said.out)
    assert (said.code, document["incomparable"]) == (0, None)
    assert [whole["trials"] for whole in document["wholes"]] == [2, 1]
    said = command("compare", "large", "other")
    assert said.out.startswith("Neither run can be called better: they were judged on different")
    assert "changed  eval.holdout_seed: 0 → 3" in said.out
    said = command("compare", "small", "large", "--fail-on", "holdout_loss>+1%")
    assert said.code == 3
    assert "no batch size is in both runs" in said.err


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
