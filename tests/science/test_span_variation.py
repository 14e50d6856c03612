"""Spans of shuffled data are seldom called unlike, heavy tails included; spans in order are."""

from dataclasses import replace

import numpy as np
import pytest

from streamtrain.records import SpanVariation
from streamtrain.science.shuffle_quality import BAD_SHUFFLE_ABOVE
from streamtrain.science.span_variation import (
    LEVEL,
    MINIBATCH_ROWS,
    design_effect,
    is_unlike,
    mixing_spans,
    span_variation,
    unlike_text,
)


def variation_of(table_RC: np.ndarray, sizes: np.ndarray, window_spans: float = 4.0):
    """Analyse consecutive rows as spans of these sizes, with columns c0, c1 and so on."""
    parts = np.split(table_RC, np.cumsum(sizes)[:-1])
    means = np.array([part.mean(axis=0) for part in parts])
    squares = np.array([((part - part.mean(axis=0)) ** 2).sum(axis=0) for part in parts])
    names = tuple(f"c{number}" for number in range(table_RC.shape[1]))
    return span_variation(sizes, means, squares, names, spans=len(sizes), window_spans=window_spans)


COLUMNS = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "t2": lambda random, shape: random.standard_t(2, shape),
    "cauchy": lambda random, shape: random.standard_cauchy(shape),
    "lognormal": lambda random, shape: np.exp(3 * random.standard_normal(shape)),
    "rare": lambda random, shape: (random.random(shape) < 1e-3) * 1.0,
}


@pytest.mark.parametrize("rows", [4, 50, 300], ids=str)
@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_shuffled_data_are_called_unlike_in_at_most_five_per_cent(column, rows):
    """By the test alone; what windows mix counts in addition. Eight columns, uneven spans too."""
    random = np.random.default_rng(rows)
    draws, called = 60, 0
    for draw in range(draws):
        sizes = np.full(64, rows) if draw % 2 else random.integers(2, 2 * rows, 64)
        found = variation_of(column(random, (sizes.sum(), 8)), sizes)
        called += found is not None and found.p_value < LEVEL
    assert called <= 0.05 * draws + 3  # 6 of 60: 2 % of the time where 5 % are called unlike


@pytest.mark.parametrize("trend", [0.3, 3.0], ids=str)
def test_a_trend_is_found_in_its_column(trend):
    random = np.random.default_rng(0)
    table = random.standard_normal((64 * 500, 5))
    table[:, 3] += trend * np.linspace(-1, 1, len(table))
    found = variation_of(table, np.full(64, 500))
    assert found.column == "c3"
    assert found.p_value < 1e-12
    between = trend**2 / 3
    assert found.share == pytest.approx(between / (1 + between), rel=0.15)
    assert is_unlike(found)
    assert "of the variance of c3 lies between spans, and a window mixes 4 of 64" in unlike_text(
        found
    )


def test_a_window_of_all_spans_or_of_very_many_is_no_reason_to_warn():
    sorted_rows = np.arange(6400.0)[:, None]
    for window_spans, unlike in ((4, True), (64, False)):
        found = variation_of(sorted_rows, np.full(64, 100), window_spans)
        assert found.p_value < LEVEL
        assert is_unlike(found) == unlike
    assert not is_unlike(None)


def test_design_effect_of_windows():
    """A window is one span, or all of them; between, pairs of one span are as 1/spans."""
    one = {"column": "c", "share": 0.2, "p_value": 0.0, "spans": 10}
    assert design_effect(SpanVariation(**one, window_spans=1), 11) == pytest.approx(3.0)
    assert design_effect(SpanVariation(**one, window_spans=10), 11) == pytest.approx(1.0)
    assert design_effect(SpanVariation(**one, window_spans=2), 11) == pytest.approx(
        1 + 10 * 0.2 * 0.4 / 0.9
    )
    assert design_effect(SpanVariation(**{**one, "spans": 1}, window_spans=1), 11) == 1


def test_one_extreme_row_and_constant_columns_are_not_unlike():
    random = np.random.default_rng(1)
    table = random.standard_normal((64 * 100, 3))
    table[5, 0], table[:, 1] = 1e12, 0.1
    found = variation_of(table, np.full(64, 100))
    assert found.p_value > LEVEL
    sorted_pairs = np.repeat(np.arange(64.0), 100)[:, None]  # constant within each span
    assert variation_of(sorted_pairs, np.full(64, 100)).p_value == 0


@pytest.mark.parametrize("sizes", [[], [10], [10, 10, 10], [1] * 50], ids=str)
def test_few_spans_or_rows_say_nothing(sizes):
    count, means = np.array(sizes, dtype=int), np.arange(float(len(sizes)))[:, None]
    squares, spans = np.ones_like(means), len(sizes)
    assert span_variation(count, means, squares, ("c",), spans=spans, window_spans=1.0) is None


@pytest.mark.parametrize("share", [0.003, 0.01, 0.2, 1.0], ids=str)
@pytest.mark.parametrize("spans", [20, 1000], ids=str)
def test_a_window_that_mixes_is_the_least_one(share, spans):
    found = SpanVariation(column="c", share=share, p_value=0.0, spans=spans, window_spans=1)
    least = mixing_spans(found)
    assert 1 < least <= spans
    effect = design_effect(replace(found, window_spans=least), MINIBATCH_ROWS)
    assert effect == pytest.approx(BAD_SHUFFLE_ABOVE)


def test_rows_without_order_need_one_span():
    found = SpanVariation(column="c", share=0.0, p_value=1.0, spans=9, window_spans=1)
    assert mixing_spans(found) == 1


@pytest.mark.parametrize(("share", "words"), [(0.9996, "100 %"), (1.0, "100 %"), (0.034, "3.4 %")])
def test_the_sentence_has_percents_without_an_exponent(share, words):
    found = SpanVariation(column="c", share=share, p_value=0.0, spans=99, window_spans=1)
    assert f": {words} of the variance of c lies between spans" in unlike_text(found)
