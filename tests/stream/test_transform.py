"""Transforms: from a user's module in the current folder to the delivered features."""

import itertools

import numpy as np
import pytest
import torch

import streamtrain
from streamtrain.errors import ConfigError, DataError
from tests.stream.conftest import id_rows, row_ids

SMALL = {"window_rows": 90, "span_rows": 40, "memory": "64MiB"}
LAYOUT = [[7, 93, 1], [1], [200, 3], [64]]
TOTAL = 369

_numbers = itertools.count()


@pytest.fixture
def transform(tmp_path, monkeypatch):
    """`transform(body)` writes a module with `def make(c): body` in the current folder.

    Returns its name, `module:make`.
    """
    monkeypatch.chdir(tmp_path)

    def write(body: str) -> str:
        name = f"features_{next(_numbers)}"  # a module is imported once per process
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n\ndef make(c):\n    {body}\n")
        return f"{name}:make"

    return write


def deliver(stream) -> np.ndarray:
    return np.concatenate([torch.cat([x, y], dim=1).numpy() for x, y in stream])


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_features_are_what_the_function_makes(write_data, transform, format):
    layout = LAYOUT if format == "parquet" else [[64, 64, 10], [64, 64]]
    name = transform(
        "return {'high': c['c0'], 'low': c['c1'], 'ratio': c['c2'] / 7, 'even': c['c1'] % 2 == 0,"
        " 'sum': c['c2'] + c['c3']}"
    )
    stream = streamtrain.open_stream(write_data(layout, format=format), transform=name, **SMALL)
    assert stream.dataset.features == ("high", "low", "ratio", "even", "sum")
    rows, raw = deliver(stream), id_rows(stream.num_rows)[:, :5]
    rows = rows[np.argsort(row_ids(rows))]
    assert np.array_equal(rows[:, [0, 1, 5]], raw[:, [0, 1, 4]])
    assert np.array_equal(rows[:, 2], raw[:, 2] / np.float32(7))
    assert np.array_equal(rows[:, 3], raw[:, 1] % 2 == 0)
    assert np.array_equal(rows[:, 4], raw[:, 2] + raw[:, 3])


def test_the_row_order_is_that_of_the_plain_stream(write_data, transform):
    folder = write_data(LAYOUT)
    same = streamtrain.open_stream(
        folder, transform=transform("return dict(c)"), holdout=0.1, **SMALL
    )
    assert np.array_equal(
        deliver(same), deliver(streamtrain.open_stream(folder, holdout=0.1, **SMALL))
    )


def test_only_the_named_features_are_given(write_data, transform):
    name = transform("assert sorted(c) == ['c1', 'c3']; return {'x': c['c3'] - c['c1']}")
    stream = streamtrain.open_stream(
        write_data(LAYOUT), features=["c1", "c3"], target="c0", transform=name, **SMALL
    )
    assert [x.shape[1] for x, _ in stream] == [1] * len(stream)


def test_large_row_groups(write_data, transform):
    stream = streamtrain.open_stream(
        write_data([[500], [300]]), transform=transform("return dict(c)"), **SMALL
    )
    assert sorted(row_ids(deliver(stream))) == list(range(800))


def test_what_it_makes_is_subject_to_the_null_policy(write_data, transform):
    folder = write_data(LAYOUT)
    name = transform("return {'high': c['c0'], 'low': c['c1'], 'log': np.log(c['c2'])}")
    with pytest.raises(DataError, match="column 'log', row"):
        deliver(streamtrain.open_stream(folder, transform=name, **SMALL))
    rows = deliver(streamtrain.open_stream(folder, transform=name, on_null="drop", **SMALL))
    assert set(row_ids(rows)) == set(np.flatnonzero(id_rows(TOTAL)[:, 2] > 0))
    imputed = streamtrain.open_stream(folder, transform=name, on_null="impute", **SMALL)
    assert np.isfinite(deliver(imputed)).all()
    assert len(imputed.nulls()["columns"]) == 1


def test_a_state_belongs_to_its_transform(write_data, transform):
    folder = write_data(LAYOUT)
    state = streamtrain.open_stream(
        folder, transform=transform("return dict(c)"), **SMALL
    ).state_dict()
    assert state["order"]["transform"]["columns"] == ["c0", "c1", "c2", "c3"]
    assert len(state["order"]["transform"]["sha256"]) == 64
    with pytest.raises(ConfigError, match="transform was"):
        streamtrain.open_stream(folder, **SMALL).load_state_dict(state)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("return [c['c0']]", "returned list. Return a dict", id="list"),
        pytest.param("return {}", "returned no feature", id="empty"),
        pytest.param("return {1: c['c0']}", "names are not text", id="names"),
        pytest.param("return {'a': 3.0}", "returned float for 'a'", id="scalar"),
        pytest.param("return {'a': c['c0'].astype(str)}", "an array of .* for 'a'", id="text"),
        pytest.param(
            "return {'a': np.append(c['c0'], 1)}", r"shape \(1,\) for 'a', from 0 rows", id="length"
        ),
        pytest.param("return {'a': c['c0'][:, None]}", r"shape \(0, 1\) for 'a'", id="matrix"),
        pytest.param(
            "return {'a': c['c9']}", "raised KeyError on 0 rows: 'c9'", id="unknown-column"
        ),
        pytest.param(
            "c['c0'][:1] = 0; return dict(c)",
            "raised ValueError on 0 rows: assignment destination is read-only",
            id="in-place",
        ),
        pytest.param(
            "return {'a': c['c0'], 'c4': c['c1']}", "'c4', which is the target", id="target"
        ),
    ],
)
def test_what_it_does_wrongly_is_named_at_open(write_data, transform, body, message):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        streamtrain.open_stream(write_data([[40]]), transform=transform(body), **SMALL)
    assert "\n" not in str(caught.value)
    assert "--transform features_" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(
            "return {'a': c['c0'][:30]}", r"shape \(30,\) for 'a', from 40 rows", id="length"
        ),
        pytest.param(
            "return {'a' if len(c['c0']) else 'b': c['c0']}", "returned a, and b before", id="names"
        ),
        pytest.param(
            "return {'a': c['c0'] / (1 if not len(c['c0']) else None)}",
            "raised TypeError on 40 rows",
            id="raises",
        ),
    ],
)
def test_what_it_does_wrongly_later_names_the_rows(write_data, transform, body, message):
    with pytest.raises(DataError, match=message) as caught:
        deliver(streamtrain.open_stream(write_data([[40]]), transform=transform(body), **SMALL))
    assert "\n" not in str(caught.value)
    assert "part-0000.parquet: rows 0 to 40" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("my_features", "write module:function", id="no-colon"),
        pytest.param(
            "my_feature:make",
            "no module 'my_feature'. Did you mean my_features_of_mine",
            id="no-module",
        ),
        pytest.param(
            "my_features_of_mine:mak", "no function 'mak'. Did you mean make", id="no-function"
        ),
        pytest.param("my_features_of_mine:number", "no function 'number'", id="not-callable"),
        pytest.param(
            "needs_more:make",
            "importing needs_more failed: No module named 'nowhere_to_be_found'",
            id="dependency",
        ),
        pytest.param("broken:make", "importing broken failed: ZeroDivisionError", id="broken"),
    ],
)
def test_what_cannot_be_imported_is_named(write_data, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_features_of_mine.py").write_text("number = 3\n\ndef make(c):\n    return c\n")
    (tmp_path / "needs_more.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=message) as caught:
        streamtrain.open_stream(write_data([[40]]), transform=name, **SMALL)
    assert "\n" not in str(caught.value)
