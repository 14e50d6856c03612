"""`--holdout-seed` decides which rows are held out; `--seed` does not.

Runs that are older than the flag keep the rows that they held out.
"""

import json
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import data_gen
from streamtrain.cli import run_verbs
from streamtrain.config import Config
from streamtrain.records import Evaluation
from streamtrain.training import fingerprint

ROWS = 6_000
QUICK = ("--hidden", "4", "--memory", "1GiB", "--device", "cpu", "--no-report", "-q")
TRAIN = ("--batch-size", "64", "--epochs", "2", *QUICK)
SWEEP = (
    *("--batch-sizes", "16,64", "--max-rows", "4096", "--trials", "2", "--lr-grid", "2"),
    *("--set", "sweep.measure=none", "--no-confirm", "--target-loss", "0.999", *QUICK),
)


@pytest.fixture
def data(tmp_path):
    data_gen.generate(tmp_path / "data", kind="friedman2", rows=ROWS, span_rows=512, seed=1)
    return "data"


def records(run: Path, event: str) -> list[dict]:
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [record for record in lines if record["event"] == event]


def baseline(run: Path) -> dict:
    [record] = records(run, "baseline")
    return record


def kept(run: Path) -> dict:
    return yaml.safe_load((run / "config.resolved.yaml").read_text())


def test_runs_of_different_seeds_are_judged_on_the_same_rows(command, data, tmp_path):
    """The baselines are fitted on the survey without the held-out rows and scored on these."""
    runs = {
        "one": ("train", data, "--seed", "1", *TRAIN),
        "two": ("train", data, "--seed", "2", *TRAIN),
        "sweep": ("sweep", data, "--seed", "3", *SWEEP),
        "other rows": ("train", data, "--seed", "1", "--holdout-seed", "1", *TRAIN),
    }
    for out, words in runs.items():
        assert command(*words, "--out", out).code == 0
    one, two, sweep, other = (baseline(tmp_path / out) for out in runs)
    assert one == two == sweep
    assert one != other
    first, second, _, third = (records(tmp_path / out, "run")[0] for out in runs)
    assert first["standard"] == second["standard"] != third["standard"]
    losses = [
        [record["holdout_loss"] for record in records(tmp_path / out, "evaluation")]
        for out in ("one", "two")
    ]
    assert losses[0] != losses[1], "another seed sets other weights and another order"


def test_the_hash_of_the_held_out_rows_depends_on_these_alone(command, data, tmp_path):
    """By it `compare` knows that runs of other features and units were judged on the same rows."""
    runs = {
        "all": (),
        "two": ("--features", "x0,x1", "--no-standardize", "--seed", "3"),
        "other": ("--holdout-seed", "1"),
        "none": ("--holdout", "0"),
    }
    for out, words in runs.items():
        assert command("train", data, *words, *TRAIN, "--out", out).code == 0
    every, two, other, none = (baseline(tmp_path / out)["holdout_hash"] for out in runs)
    assert every == two != other
    assert none is None


@pytest.mark.parametrize("older", [False, True], ids=["with its key", "of an older version"])
def test_train_from_a_sweep_holds_out_the_rows_of_the_sweep(command, data, tmp_path, older):
    said = command("sweep", data, "--seed", "5", "--holdout-seed", "5", *SWEEP, "--out", "s")
    assert said.code == 0, said.err
    if older:
        forget_holdout_seed(tmp_path / "s")
    said = command("train", "--from", "s", "--seed", "9", "--out", "m", *QUICK)
    assert said.code == 0, said.err
    config = kept(tmp_path / "m")
    assert (config["order"]["seed"], config["eval"]["holdout_seed"]) == (9, 5)
    assert baseline(tmp_path / "m") == baseline(tmp_path / "s")


def forget_holdout_seed(run: Path) -> None:
    config = kept(run)
    del config["eval"]["holdout_seed"]
    (run / "config.resolved.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def older_run(command, data, monkeypatch):
    """`older_run(5)`: folder `m` has a run with --seed 5, interrupted, without the new key."""

    def interrupted(seed: int) -> None:
        dump, evaluations = Config.model_dump, 0

        def older_dump(self, **options):
            sections = dump(self, **options)
            del sections["eval"]["holdout_seed"]
            return sections

        @contextmanager
        def interrupting_progress(mode, *, verbose=False):
            def on_record(record):
                nonlocal evaluations
                evaluations += isinstance(record, Evaluation)
                if evaluations == 5:
                    signal.raise_signal(signal.SIGINT)

            yield on_record

        words = ("train", data, "--seed", seed, "--holdout-seed", seed, *TRAIN, "--out", "m")
        with monkeypatch.context() as patch:
            patch.setattr(Config, "model_dump", older_dump)
            patch.setattr(fingerprint, "with_holdout_seed", dict)
            patch.setattr(run_verbs, "progress", interrupting_progress)
            assert command(*words).code == 130
        assert "holdout_seed" not in Path("m/events.jsonl").read_text()
        assert "holdout_seed" not in Path("m/config.resolved.yaml").read_text()
        assert list(Path("m/checkpoints").iterdir())

    return interrupted


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (0, ("--seed", "0", "--out", "m")),
        (5, ("--seed", "5", "--holdout-seed", "5", "--out", "m")),
        (5, ("--resume", "m")),
    ],
    ids=["seed 0", "its seed", "--resume alone"],
)
def test_an_older_run_resumes_with_the_rows_it_held_out(command, older_run, tmp_path, seed, words):
    older_run(seed)
    flags = ("-q", "--no-report") if words[0] == "--resume" else ("data", *TRAIN)
    said = command("train", *flags, *words)
    assert said.code == 0, said.err
    assert records(tmp_path / "m", "end")
    seeds = ("--seed", seed, "--holdout-seed", seed)
    assert command("train", "data", *seeds, *TRAIN, "--out", "whole").code == 0
    assert baseline(tmp_path / "m") == baseline(tmp_path / "whole")
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("m", "whole")]
    assert models[0] == models[1]


def test_an_older_run_is_refused_other_held_out_rows(command, older_run):
    older_run(5)
    said = command("train", "data", "--seed", "5", *TRAIN, "--out", "m")
    assert said.code == 2
    assert "eval.holdout_seed was 5, is 0" in said.err
    assert "`--resume m` alone" in said.err


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("verb", ["train", "sweep", "inspect"])
def test_a_table_of_which_no_row_is_held_out_is_refused(command, tmp_path, verb, rows):
    """`train` of one row ended with a model and nothing to say of it, and exit code 0."""
    table = tmp_path / "t.csv"
    table.write_text("x,y\n" + "".join(f"{row},{row % 3}.5\n" for row in range(rows)))
    said = command(verb, "t.csv", *(QUICK[:-2] if verb != "inspect" else ()))
    few = "there is nothing to learn" if rows == 1 else "a fifth is held out, which takes 5 rows"
    assert said.code == 3
    assert f"t.csv: {rows} row{'s' * (rows > 1)}{': ' * (rows > 1)}" in said.err + said.out
    assert few in said.err + said.out
    assert not (tmp_path / "runs").exists()


def test_the_fewest_rows_are_trained_on(command, tmp_path):
    five, three = tmp_path / "five.csv", tmp_path / "three.csv"
    lines = ["x,y", "0,1", "1,3", "2,2", "3,7", "4,1"]
    five.write_text("\n".join(lines) + "\n")
    three.write_text("\n".join(lines[:4]) + "\n")
    more = ("--max-rows", "64", *QUICK)
    assert command("train", "five.csv", "--out", "a", *more).code == 0
    assert baseline(tmp_path / "a")["holdout_hash"] is not None
    # as the refusal of three rows proposes
    assert command("train", "three.csv", "--out", "b", "--holdout", "0", *more).code == 0
    assert command("train", "three.csv", "--out", "c", "--eval-data", "five.csv", *more).code == 0
    said = command("train", "five.csv", "--out", "d", "--holdout", "0.05", *more)
    assert (said.code, "data.holdout 0.05 of 5 rows is less than a row" in said.err) == (2, True)
