"""The order of rows is found from eight spans, or left alone where it does not matter."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamtrain.config import make_config
from streamtrain.records import SpanVariation
from streamtrain.run import row_order as module
from streamtrain.run.row_order import mixing_advice, row_order
from streamtrain.science.span_variation import is_unlike
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.stream.open_source import open_source, stream_budget

GROUPS, GROUP_ROWS = 64, 500


@pytest.fixture
def written(tmp_path):
    def write(x: Sequence[float]):
        draw = np.random.default_rng(0).standard_normal(GROUPS * GROUP_ROWS)
        table = pa.table({"x": np.asarray(x) + draw, "y": draw})
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=GROUP_ROWS)
        return open_shards(str(tmp_path / "t.parquet"))

    return write


def test_a_trend_is_found_in_eight_spans(written, monkeypatch):
    read = list[tuple[int, int]]()
    plain = Readers.read

    def counted(self, shard, start, stop):
        read.append((start, stop))
        return plain(self, shard, start, stop)

    monkeypatch.setattr(Readers, "read", counted)
    monkeypatch.setattr(module, "_SPAN_ROWS", GROUP_ROWS)
    dataset = written(np.linspace(0, 3, GROUPS * GROUP_ROWS))
    found = row_order(dataset, window_rows=8 * GROUP_ROWS)
    assert found is not None
    assert (found.column, found.spans, found.window_spans) == ("x", GROUPS, 8)
    assert is_unlike(found)
    assert sum(stop - start for start, stop in read) == 8 * GROUP_ROWS


def test_random_order_is_not_called_unlike(written, monkeypatch):
    monkeypatch.setattr(module, "_SPAN_ROWS", GROUP_ROWS)
    draw = np.random.default_rng(1).standard_normal(GROUPS * GROUP_ROWS)
    draw[5] = np.nan
    found = row_order(written(draw), window_rows=8 * GROUP_ROWS)
    assert found is not None
    assert not is_unlike(found)


def test_nothing_is_read_where_one_window_holds_all_rows(written, monkeypatch):
    monkeypatch.setattr(Readers, "read", None)
    assert row_order(written(np.linspace(0, 3, GROUPS * GROUP_ROWS))) is None


def test_a_span_that_cannot_be_read_says_nothing_here(written, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SPAN_ROWS", GROUP_ROWS)
    dataset = written(np.zeros(GROUPS * GROUP_ROWS))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    assert row_order(dataset, window_rows=8 * GROUP_ROWS) is None


@pytest.mark.parametrize(
    ("memory", "window"),
    [
        ("1GiB", " Or mix more of them at a time: --window-rows 16000, which takes 40"),
        ("42200000", ""),
    ],
    ids=["fits", "too large"],
)
def test_the_advice_is_the_command_and_a_window_that_fits(written, monkeypatch, memory, window):
    """28.6 of 64 spans are a design effect of 1.1 where 2 % of the variance are between spans.

    Two windows of 32 spans are the smallest equal ones that have as many.
    """
    monkeypatch.setattr(module, "_STEP_ROWS", 250)
    dataset = written(np.linspace(0, 3, GROUPS * GROUP_ROWS))
    settings = {
        "data": {"target": "y", "features": ["x"], "header": False},
        "order": {"window_rows": 8 * GROUP_ROWS, "span_rows": GROUP_ROWS},
        "fetch": {"memory": memory, "readers": 2},
    }
    config = make_config(settings)
    source = open_source(dataset, config, holdout=0)
    budget = stream_budget(source, config.fetch, fixed_bytes=0)
    found = SpanVariation(column="y", share=0.02, p_value=0.0, spans=GROUPS, window_spans=8)
    said = mixing_advice(found, source, config, budget, fixed_bytes=0)
    command = f"streamtrain ingest --shuffle {dataset.url} OUT --target y --features x --header off"
    assert said.startswith(f"Shuffle them once: {command}, and use OUT.")
    assert said.removeprefix(f"Shuffle them once: {command}, and use OUT.").startswith(window)
    assert bool(window) == ("--window-rows" in said)
