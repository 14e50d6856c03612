"""The benchmark's files: figures of each part, comparison, tables, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

import data_gen
from streamtrain.bench import step_bench, train_bench
from streamtrain.bench.step_bench import measure_step
from streamtrain.bench.stream_bench import measure_stream
from streamtrain.bench.train_bench import measure_train
from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.science.intervals import Estimate, independent_ratio, measure
from tests.benchmarks import all as every
from tests.benchmarks import bench_figures, bench_markdown, compare_files
from tests.benchmarks.bench_file import (
    BenchFile,
    Figure,
    Machine,
    Part,
    ratio,
    read_bench,
    this_commit,
    this_machine,
    write_bench,
)

MACHINE = Machine(
    cpu="Test CPU", cores=2, memory_bytes=24 * 2**30, system="Linux", versions={"torch": "2.13.0"}
)
CURVES = {
    "streamtrain": [[[0.2, 1e-3], [0.4, 6e-5]], [[0.2, 1e-3], [0.5, 6e-5]]],
    "torch_loop": [[[1.2, 6e-5]], [[1.0, 6e-5]]],
    "xgboost": [[[8.0, 2e-3]], [[10.0, 2e-3]]],
}
SUMMARY = {
    "seconds": 20.0,
    "recommendation": {
        "batch_size": 64,
        "equivalent": [64, 256],
        "expected_loss": {"value": 0.01, "lo": 0.009, "hi": 0.011, "n": 5},
    },
    "cells": [
        {"batch_size": 16, "rows_per_second": {"value": 1e5, "lo": None, "hi": None, "n": 1}},
        {"batch_size": 64, "rows_per_second": {"value": 9e5, "lo": 8e5, "hi": 1e6, "n": 5}},
    ],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> BenchFile:
    """A file whose parts are measured on tiny inputs, apart from the race and a sweep."""
    folder = tmp_path_factory.mktemp("bench")
    data_gen.generate(folder / "data", kind="linear", rows=4096, span_rows=1024)
    config = make_config(
        {
            "data": {"path": str(folder / "data")},
            "model": {"hidden": [8, 8]},
            "sweep": {"batch_sizes": [64]},
            "train": {"engine": "fused", "threads": 1},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (step_bench, train_bench):
            patch.setattr(module, "REGION_SECONDS", 0.002)
        patch.setattr(step_bench, "ROWS", 4096)
        patch.setattr(step_bench, "SGEMM", 64)
        documents = {
            "stream": measure_stream(config, rows=4096, repeats=2),
            "step": measure_step(config, repeats=2),
            "train": measure_train(config, repeats=2),
            "quality": CURVES,
            "answer diabetes": SUMMARY,
        }
    figures = {
        "stream": bench_figures.stream_figures,
        "step": bench_figures.step_figures,
        "train": bench_figures.train_figures,
        "quality": bench_figures.quality_figures,
        "answer diabetes": lambda document: bench_figures.answer_figures("diabetes", document),
    }
    parts = tuple(
        Part(
            name=name,
            command="a command",
            rounds=1,
            seconds=1.0,
            figures=tuple(figures[name](document)),
            document=document,
        )
        for name, document in documents.items()
    )
    return BenchFile(
        date="2026-11-29T15:00:00+00:00",
        commit="0123456789ab",
        machine=MACHINE,
        quick=False,
        parts=parts,
    )


def one_figure(estimate: Estimate, *, unit="rows/s", better="more", cpu="Test CPU") -> BenchFile:
    """A file of one figure."""
    figure = Figure(name="stream/it", estimate=estimate, unit=unit, better=better)
    machine = Machine(cpu=cpu, cores=2, memory_bytes=1, system="Linux", versions={})
    part = Part(name="stream", command="", rounds=5, seconds=1.0, figures=(figure,))
    return BenchFile(date="2026", commit=None, machine=machine, quick=False, parts=(part,))


def test_a_file_holds_every_figure_with_its_interval(bench, tmp_path):
    path = tmp_path / "bench.json"
    write_bench(bench, path)
    document = json.loads(path.read_text())
    assert document["machine"]["cores"] == 2
    assert document["date"].startswith("2026-11-29")
    figures = {figure["name"]: figure for part in document["parts"] for figure in part["figures"]}
    names = list(figures)
    assert len(names) == sum(len(part["figures"]) for part in document["parts"])
    for name in (
        "stream/rows_per_second",
        "stream/ratio_to_decode",
        "step/fused/64/ratio_to_torch_eager",
        "train/64/1_threads/ratio_to_resident",
        "quality/torch_loop/times_streamtrain",
        "answer/diabetes/expected_loss",
    ):
        values = figures[name]["estimate"]
        assert values["lo"] <= values["value"] <= values["hi"], name
        assert values["n"] >= 2
    without = {name for name, figure in figures.items() if figure["estimate"]["lo"] is None}
    assert without == {"stream/peak_rss_bytes", "answer/diabetes/sweep_seconds"}
    assert read_bench(path) == bench


def test_the_race_is_over_when_the_target_is_reached():
    figures = {one.name: one for one in bench_figures.quality_figures(CURVES)}
    assert figures["quality/streamtrain/seconds"].better == "less"
    assert figures["quality/torch_loop/times_streamtrain"].estimate.value == pytest.approx(6**0.5)
    # it was stopped at 8 and 10 s, so its times are lower bounds
    assert "quality/xgboost/seconds" not in figures
    assert figures["quality/xgboost/times_streamtrain_at_least"].estimate.value == pytest.approx(20)


def test_a_sweep_without_an_answer_has_its_seconds_only():
    summary = SUMMARY | {"recommendation": {"batch_size": None}}
    names = [one.name for one in bench_figures.answer_figures("t", summary)]
    assert names == ["answer/t/sweep_seconds"]


@pytest.mark.parametrize("sizes", [(5, 5), (3, 7)])
def test_the_ratio_of_two_files_is_welchs(sizes):
    """The medians of a log-symmetric sample are its geometric means, so both ways agree."""
    samples = []
    for size, centre, spread in zip(sizes, (80.0, 60.0), (0.05, 0.02), strict=True):
        steps = np.linspace(-1, 1, size)
        samples.append(centre * np.exp(spread * steps))
    a, b = samples
    found = ratio(measure(b, log=True), measure(a, log=True))
    expected = independent_ratio(b, a)
    assert found.n == expected.n == min(sizes)
    assert (found.value, found.lo, found.hi) == pytest.approx(
        (expected.value, expected.lo, expected.hi), rel=1e-9
    )


@pytest.mark.parametrize(
    ("unit", "better", "cpu", "change", "tolerance", "verdict"),
    [
        ("rows/s", "more", "Test CPU", 0.9, 0.0, "worse"),
        ("rows/s", "more", "Test CPU", 1.1, 0.0, "better"),
        ("rows/s", "more", "Test CPU", 0.998, 0.0, "same"),
        ("rows/s", "more", "Test CPU", 0.9, 0.2, "same"),
        ("s", "less", "Test CPU", 1.1, 0.0, "worse"),
        ("s", "less", "Test CPU", 0.9, 0.0, "better"),
        ("s", "less", "Test CPU", 1.1, 0.2, "same"),
        ("rows/s", "yardstick", "Test CPU", 0.5, 0.0, "yardstick"),
        ("rows/s", "more", "Other CPU", 0.5, 0.0, "unknown"),
        ("x", "more", "Other CPU", 0.9, 0.0, "worse"),
    ],
)
def test_b_is_worse_where_its_whole_interval_is(unit, better, cpu, change, tolerance, verdict):
    sample = 1e6 * np.exp([-0.003, -0.001, 0.0, 0.001, 0.003])
    a = one_figure(measure(sample, log=True), unit=unit, better=better)
    b = one_figure(measure(sample * change, log=True), unit=unit, better=better, cpu=cpu)
    (found,) = compare_files.compare_files(a, b, tolerance=tolerance)
    assert found.verdict == verdict
    assert found.ratio.value == pytest.approx(change)
    assert bool(compare_files.failures([found])) == (verdict == "worse")


def test_the_command_ends_with_5_where_b_is_worse(tmp_path, capsys):
    sample = measure([1.0, 1.01, 0.99], log=True)
    slower = measure([0.5, 0.51, 0.49], log=True)
    for name, estimate in (("a", sample), ("b", slower)):
        write_bench(one_figure(estimate), tmp_path / f"{name}.json")
    paths = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert compare_files.main(paths) == 5
    said = capsys.readouterr()
    assert "stream/it" in said.out
    assert "error: stream/it is worse: B/A is 0.500 [" in said.err
    assert compare_files.main([*paths, "--tolerance", "1.5"]) == 0
    assert compare_files.main(paths[::-1]) == 0
    capsys.readouterr()
    assert compare_files.main([paths[0], paths[0], "--json"]) == 0
    (change,) = json.loads(capsys.readouterr().out)
    assert change["verdict"] == "same"
    assert change["ratio"]["value"] == 1.0


def test_what_only_one_file_has(bench):
    empty = BenchFile(date="2026", commit=None, machine=MACHINE, quick=True, parts=())
    changes = compare_files.compare_files(bench, empty)
    assert {one.verdict for one in changes} == {"missing", "yardstick"}
    judged = [one for one in bench.figures().values() if one.better != "yardstick"]
    assert len(compare_files.failures(changes)) == len(judged)
    found = {one.verdict for one in compare_files.compare_files(empty, bench)}
    assert found == {"new", "yardstick"}
    assert "--quick" in compare_files.page(bench, empty, changes)


def test_a_figure_measured_once_is_never_worse():
    a, b = one_figure(Estimate(value=2.0, n=1)), one_figure(Estimate(value=1.0, n=1))
    (found,) = compare_files.compare_files(a, b)
    assert (found.verdict, found.ratio.value, found.ratio.lo) == ("unknown", 0.5, None)
    assert ratio(Estimate(value=None), Estimate(value=1.0, n=3)).value is None


def test_a_figure_that_lost_its_value_or_changed_its_unit_is_not_judged_as_before():
    a, none = (one_figure(Estimate(value=value, lo=value, hi=value, n=3)) for value in (2.0, None))
    changes = compare_files.compare_files(a, none)
    assert [one.verdict for one in changes] == ["missing"]
    assert compare_files.failures(changes) == ["stream/it has no value in B"]
    assert [one.verdict for one in compare_files.compare_files(none, a)] == ["new"]
    assert [one.verdict for one in compare_files.compare_files(none, none)] == ["unknown"]
    seconds = one_figure(Estimate(value=1.0, lo=1.0, hi=1.0, n=3), unit="s", better="less")
    assert [one.verdict for one in compare_files.compare_files(a, seconds)] == ["unknown"]


def test_an_interval_from_the_rows_of_one_run_is_normal():
    one, other = Estimate(value=1.0, lo=0.97, hi=1 / 0.97, n=1), Estimate(value=1.2, n=1)
    assert ratio(other, one).lo is None
    found = ratio(one, one)
    # two equal errors add up in squares
    assert found.hi == pytest.approx((1 / 0.97) ** 2**0.5)
    assert found.lo == pytest.approx(0.97**2**0.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{}", "not a file of make bench: date"),
        ("[", "not a file of make bench"),
        ("another format", "format 99"),
    ],
)
def test_a_file_that_is_none_is_refused(bench, tmp_path, capsys, content, words):
    path = tmp_path / "bench.json"
    if content == "another format":
        write_bench(dataclasses.replace(bench, format=99), path)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_bench(path)
    assert compare_files.main([str(path), str(path)]) == 3
    assert bench_markdown.main([str(path)]) == 3
    assert "error: " in capsys.readouterr().err


def test_the_tables_of_the_readme(bench, tmp_path, capsys):
    write_bench(bench, tmp_path / "bench.json")
    assert bench_markdown.main([str(tmp_path / "bench.json")]) == 0
    text = capsys.readouterr().out
    assert "Test CPU, 24 GiB, 2026-11-29, commit 0123456789ab" in text
    assert "streamtrain bench stream DATA --batch-size 4096" not in text
    assert "| B | 64 |" in text
    assert "| torch loop | 1.10 |" in text
    assert "| diabetes | 64 (tied: 64 to 256) | 0.01 [0.009, 0.011] | 20 s |" in text


def test_the_race_is_drawn_from_the_file(bench, tmp_path, capsys):
    write_bench(bench, tmp_path / "bench.json")
    words = [str(tmp_path / "bench.json"), "--picture", str(tmp_path / "race.svg")]
    assert bench_markdown.main(words) == 0
    drawn = (tmp_path / "race.svg").read_text()
    assert all(side in drawn for side in ("streamtrain", "torch loop", "xgboost"))
    assert capsys.readouterr().out == ""
    write_bench(one_figure(Estimate(value=1.0)), tmp_path / "bench.json")
    assert bench_markdown.main(words) == 3
    assert "no race to draw" in capsys.readouterr().err


def test_the_tables_are_put_into_a_page_in_one_step(bench, tmp_path):
    page = tmp_path / "README.md"
    readme = Path(bench_markdown.__file__).parents[2] / "README.md"
    page.write_text(readme.read_text(encoding="utf-8"), encoding="utf-8")
    write_bench(bench, tmp_path / "bench.json")
    words = [str(tmp_path / "bench.json"), "--into", str(page)]
    assert bench_markdown.main(words) == 0
    once = page.read_text(encoding="utf-8")
    for text in bench_markdown.blocks(bench).values():
        assert text in once
    assert bench_markdown.main(words) == 0
    assert page.read_text(encoding="utf-8") == once
    # what the file lacks stays as it was
    few = one_figure(Estimate(value=1.0))
    assert once.replace(bench_markdown.machine_line(bench), bench_markdown.machine_line(few)) == (
        bench_markdown.put_into(once, few)
    )


def test_a_page_without_markers_is_refused(bench, tmp_path, capsys):
    page = tmp_path / "page"
    page.write_text("<!-- bench machine -->\nold\n<!-- bench end -->\n")
    write_bench(bench, tmp_path / "bench.json")
    assert bench_markdown.main([str(tmp_path / "bench.json"), "--into", str(page)]) == 3
    assert f"error: {page}: no markers for answers" in capsys.readouterr().err
    assert "old" in page.read_text()


def test_a_block_without_its_end_keeps_the_prose_below(tmp_path):
    page = "<!-- bench machine -->\nold\n\nProse.\n<!-- bench stream -->\nt\n<!-- bench end -->\n"
    with pytest.raises(DataError, match="no markers for machine"):
        bench_markdown.put_into(page, one_figure(Estimate(value=1.0)))


def test_a_page_that_cannot_be_read_is_refused(tmp_path, capsys):
    write_bench(one_figure(Estimate(value=1.0)), tmp_path / "bench.json")
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name in ("none", "latin", "."):
        words = [str(tmp_path / "bench.json"), "--into", str(tmp_path / name)]
        assert bench_markdown.main(words) == 3
        assert f"error: {tmp_path / name}: " in capsys.readouterr().err


def test_the_machine_and_the_commit():
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert {"python", "torch", "streamtrain"} <= set(machine.versions)
    commit = this_commit()
    assert commit is None or math.inf > len(commit) >= 12


@pytest.mark.slow
def test_the_whole_command_on_small_inputs(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert every.main(["--out", str(path), "--quick", "--markdown"]) == 0
    bench = read_bench(path)
    assert bench.quick
    assert [part.name.split()[0] for part in bench.parts] == [
        *("stream", "step", "train", "quality"),
        *("answer", "answer", "answer"),
    ]
    assert all(part.figures and not part.reason for part in bench.parts)
    assert set(bench_markdown.blocks(bench)) == {
        *("machine", "stream", "step", "train", "quality", "answers")
    }
    assert compare_files.main([str(path), str(path)]) == 0
    assert "--quick" in capsys.readouterr().out
