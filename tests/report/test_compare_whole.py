"""Two runs as wholes: what is compared, what is called better, and what cannot be."""

import json
import re
from dataclasses import replace

import pytest

from streamtrain.records import BatchStage
from streamtrain.report.compare import compare, render_comparison
from streamtrain.report.compare_whole import WHOLE_FIGURES, incomparable
from streamtrain.report.summary import analyze
from streamtrain.science.cells import losses_at, throughput
from streamtrain.science.intervals import independent_ratio
from streamtrain.science.run_log import Run, collect
from tests.report.synthetic import make_records


def made(sizes=(256, 1024), **options) -> Run:
    return collect(make_records(sizes, **{"trials": 3, "target_loss": [0.1], **options}))


def one_trained(size=64, **options) -> Run:
    options = {"trials": 1, "lrs": (0.004,), "verb": "train", **options}
    return made((size,), **options)


def scaled(run: Run, factor: float) -> Run:
    """The run with every held-out loss times `factor`."""
    for trials in run.curves.values():
        for curve in trials.values():
            curve.holdout_loss = [loss * factor for loss in curve.holdout_loss]
            curve.holdout_rmse = [rmse * factor**0.5 for rmse in curve.holdout_rmse]
    return run


def with_data(run: Run, **changes) -> Run:
    run.header = replace(run.header, data=replace(run.header.data, **changes))
    return run


def test_a_run_beside_itself_shows_no_difference():
    document = compare(made(), made())
    assert document["incomparable"] is None
    assert document["answer"].startswith("No difference in held-out loss is shown: ")
    assert {figure["verdict"] for figure in document["whole"].values()} == {"undecided"}
    assert all(figure["change"] == 0 for figure in document["whole"].values())


@pytest.mark.parametrize("seed", range(3))
def test_swapping_the_runs_inverts_every_change(seed):
    a, b = made((64, 256), seed=seed), made((1024, 4096), seed=seed + 9)
    there, back = compare(a, b), compare(b, a)
    assert there["cells"] == back["cells"] == []
    for name in WHOLE_FIGURES:
        one, other = there["whole"][name], back["whole"][name]
        assert (1 + one["change"]) * (1 + other["change"]) == pytest.approx(1)
        assert (1 + one["lo"]) * (1 + other["hi"]) == pytest.approx(1)


def test_the_wholes_are_the_recommended_sizes_at_the_end_of_their_training():
    """The intervals are those of independent samples, as for every size."""
    a, b = made((64, 256), seed=1), made((1024, 4096), seed=2, train_rows=1_000_000)
    b.header.config["order"] = {"seed": 7}
    document = compare(a, b)
    assert not document["paired"]
    losses, seconds = [], []
    for run, whole in zip((a, b), document["wholes"], strict=True):
        analysis = analyze(run)
        size = analysis.summary.recommendation.batch_size
        [cell] = [cell for cell in analysis.cells if cell.batch_size == size]
        assert (whole["cell"]["batch_size"], whole["rows"]) == (size, run.train_rows)
        losses.append(losses_at(cell, run.train_rows))
        seconds.append([run.train_rows / speed for speed in throughput(run, size)[0]])
    for name, values in (("holdout_loss", losses), ("training_seconds", seconds)):
        expected = independent_ratio(values[1], values[0])
        change = document["whole"][name]
        assert [change["change"], change["lo"], change["hi"]] == pytest.approx(
            [(value or 0) - 1 for value in (expected.value, expected.lo, expected.hi)]
        )


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_known_change_is_the_answer(factor):
    document = compare(made(), scaled(made(), factor))
    word, verdict = ("lower", "better") if factor < 1 else ("higher", "worse")
    assert document["answer"].startswith(f"B has the {word} held-out loss: ")
    assert document["whole"]["holdout_loss"]["verdict"] == verdict
    assert document["whole"]["holdout_loss"]["change"] == pytest.approx(factor - 1)


def test_one_trial_of_a_training_decides_nothing():
    """Here against a sweep: seconds to A's target are shown, and no loss is called lower."""
    document = compare(made((256, 1024)), scaled(one_trained(), 0.5))
    assert document["whole"]["holdout_loss"]["verdict"] == "undecided"
    assert document["whole"]["holdout_loss"]["lo"] is None
    assert "but one trial cannot show more than chance" in document["answer"]
    assert re.search(r"Both reach A's target, loss ≤ 0.1: B in \S+ \S+, A in", document["answer"])
    document = compare(one_trained(), scaled(one_trained(), 1.0001))
    assert document["answer"].startswith("The held-out losses are the same to 0.1 %")


def test_a_loss_of_zero_has_no_ratio():
    answer = compare(one_trained(), scaled(one_trained(), 0.0))["answer"]
    assert answer.startswith("The held-out losses are 0.0000 against 0.0")


def test_what_b_reaches_of_the_target_is_said():
    def answer(a: Run, b: Run) -> str:
        return compare(a, b)["answer"]

    # a factor of 9 lifts every loss above the target
    three, missed = made((256,)), scaled(made((256,)), 9)
    assert answer(three, missed).endswith("B does not reach A's target, loss ≤ 0.1.")
    assert answer(missed, three).endswith(
        "B reaches A's target, loss ≤ 0.1, in 3 of 3 trials, and A in 0 of 3."
    )
    late = one_trained(64)
    [curve] = late.curves[64, 0.004].values()
    curve.holdout_loss = [1.0] * (len(curve.rows) - 1) + [0.05]
    assert "at its last evaluation, which alone does not count" in answer(one_trained(64), late)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: with_data(run, target="z"), "A predicts y, and B z"),
        (
            lambda run: with_data(run, fingerprint="f", url="other/"),
            "they read different data (data/ and other/)",
        ),
        (
            lambda run: with_data(run, fingerprint="f"),
            "they read different data (data/ was changed)",
        ),
        (lambda run: held_out(run, "5678"), "they were judged on different held-out rows"),
    ],
    ids=["target", "data", "changed data", "held-out rows"],
)
def test_what_was_judged_on_other_rows_is_not_called_better(change, reason):
    a, b = held_out(made(), "1234"), change(scaled(held_out(made(), "1234"), 0.5))
    document = compare(a, b)
    assert document["incomparable"] == incomparable(a, b) == reason
    assert document["answer"] == f"Neither run can be called better: {reason}."
    assert {figure["verdict"] for figure in document["whole"].values()} == {"none"}
    assert {cell["verdict"] for cell in document["cells"]} == {"not comparable"}
    text = render_comparison(document, ("a", "b"))
    assert text.startswith(document["answer"])
    assert not re.search("lower|higher|faster|slower|sooner|later", text)


def held_out(run: Run, rows_hash: str | None) -> Run:
    run.baseline = replace(run.baseline, holdout_hash=rows_hash)
    return run


def test_older_runs_know_their_rows_by_the_loss_of_the_best_constant():
    a, b = made(), made()
    constant = b.baseline.best_constant_loss
    assert constant is not None
    assert incomparable(a, held_out(b, "1234")) is None
    for relative, reason in (
        (1e-13, None),
        (1e-4, "they were judged on different held-out rows"),
    ):
        loss = replace(constant, value=constant.value * (1 + relative))
        b.baseline = replace(b.baseline, best_constant_loss=loss)
        assert incomparable(a, b) == reason


@pytest.mark.parametrize(
    ("b", "why"),
    [
        (lambda: one_trained(holdout="none"), "(B: nothing was held out)"),
        (lambda: one_trained(outcomes={64: "diverged"}), "(B: diverged)"),
        (
            lambda: made(outcomes={256: "failed", 1024: "diverged"}),
            "(B: it recommends no size)",
        ),
    ],
    ids=["no hold-out", "diverged", "no recommendation"],
)
def test_a_run_without_a_loss_is_not_compared_and_the_answer_says_why(b, why):
    document = compare(made(), b())
    assert document["answer"] == f"There are no two held-out losses to compare {why}."
    assert document["whole"]["holdout_loss"]["verdict"] == "missing"
    render_comparison(document, ("a", "b"))
    json.dumps(document, allow_nan=False)


def scheduled(run: Run, *sizes: tuple[int, int]) -> Run:
    stages = tuple(BatchStage(first_row=row, batch_size=size) for size, row in sizes)
    run.header = replace(run.header, stages=stages)
    return run


def test_a_training_whose_size_changes_is_not_one_of_its_first_size():
    grown = scheduled(one_trained(64), (64, 0), (128, 10**6), (256, 10**9))
    for pair in ((grown, one_trained(64)), (one_trained(64), grown)):
        document = compare(*pair)
        assert document["cells"] == []
        text = render_comparison(document, ("a", "b"))
        assert re.search(r"^minibatch size .*64, then 128( |$)", text, re.MULTILINE) is not None
        assert {"only in A: minibatch size 64", "only in A: minibatch size 64, then 128"} & set(
            text.splitlines()
        )
    twice = compare(grown, grown)
    assert [cell["batch_size"] for cell in twice["cells"]] == [64]
    assert "\n64, then 128  " in render_comparison(twice, ("a", "b"))
    constant = scheduled(one_trained(64), (64, 0))  # `auto` for few rows
    assert len(compare(constant, one_trained(64))["cells"]) == 1


def test_the_text_starts_with_the_answer_and_has_both_runs_in_one_table():
    a, b = made((256, 1024)), one_trained(64)
    document = json.loads(json.dumps(compare(a, b), allow_nan=False))
    long_name = "a/very/long/path/to/the/folder/of/run-b"
    answer, table, *rest = render_comparison(document, ("runs/a", long_name)).split("\n\n")
    assert answer == document["answer"]
    lines = table.splitlines()
    assert lines[0].split("  ")[-1] == "change [95 %]"
    assert "A runs/a" in lines[0]
    assert f"B …{long_name[-25:]}" in lines[0]
    for label in ("minibatch size", "held-out loss", "RMSE, in y", "training", "to loss ≤ 0.1"):
        assert any(line.startswith(label) for line in lines), label
    assert "only in A: minibatch sizes 256, 1,024\nonly in B: minibatch size 64" in rest[-1]
