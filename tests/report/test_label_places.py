"""Labels of points: none covers another, at any values, and each is beside its point."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.report.label_places import Label, LineName, Mark, Plot, line_names, place_labels

PLOT = Plot((1.0, 1000.0), (0.01, 1.0), 240.0)
#: Pixels across the narrowest plot; the height of a figure of 11 pixels, and the width of a digit.
WIDTH, HEIGHT, DIGIT = 230.0, 12.0, 6.4


def pixels(x: float, y: float) -> tuple[float, float]:
    """Return the place of a point, from the bottom left."""
    return WIDTH * math.log10(x) / 3, PLOT.height * math.log10(y / 0.01) / 2


def box(label: Label, width: float = WIDTH) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of the text, in a plot of this width."""
    x, y = pixels(label.x, label.label_y)
    x = x * width / WIDTH + label.dx
    text = DIGIT * len(label.text)
    left = x - text / 2 if label.align == "center" else x
    return left, left + text, y - HEIGHT / 2, y + HEIGHT / 2


def overlap(one, other) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


@st.composite
def clusters(draw) -> list[Mark]:
    """Return up to twelve marks, the most that are labelled, in a part of the plot or all of it."""
    count, extent = draw(st.integers(1, 12)), draw(st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    shares = random.uniform(0, 1, 2) + extent * random.uniform(-0.5, 0.5, (count, 2))
    return [
        Mark(1000.0**x, 0.01 * 100.0**y, f"{2 ** (k + 2):,}")
        for k, (x, y) in enumerate(np.clip(shares, 0, 1).tolist())
    ]


@given(marks=clusters(), column=st.booleans(), named=st.booleans())
def test_no_label_covers_another_and_each_is_beside_its_point(marks, column, named):
    names = [LineName("best linear 0.2026", 0.2, is_right=True, is_below=False)] if named else []
    labels = place_labels(marks, PLOT, column=column, names=names)
    assert labels == place_labels(marks, PLOT, column=column, names=names)
    assert [(label.x, label.y, label.text) for label in labels] == marks
    for width in (WIDTH, 437.0, 1090.0):
        boxes = [box(label, width) for label in labels]
        assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
        assert all(left > -DIGIT for left, *_ in boxes)
    for label in labels:
        _, _, bottom, top = box(label)
        assert bottom > 0
        assert top < PLOT.height
        far = abs(pixels(1, label.label_y)[1] - pixels(1, label.y)[1])
        assert label.align == "left" or far > 16  # outside of a ring
        if label.stem is not None:
            assert min(abs(pixels(1, label.stem)[1] - end) for end in (bottom, top)) < 3
        elif label.dx < 12:
            assert far < 25  # the next line


def test_labels_at_the_right_end_are_a_column_in_the_order_of_their_points():
    marks = [Mark(1000.0, y, str(k)) for k, y in enumerate((0.3, 0.1, 0.1001, 0.0101))]
    labels = place_labels(marks, PLOT, column=True)
    assert {(label.align, label.dx, label.stem) for label in labels} == {("left", 12, None)}
    heights = [label.label_y for label in labels]
    assert sorted(range(4), key=heights.__getitem__) == [3, 1, 2, 0]
    assert heights[0] == pytest.approx(0.3)
    gap = math.log(heights[2] / heights[1]) / math.log(100) * PLOT.height
    assert gap == pytest.approx(15)


def test_a_label_leaves_lines_and_names_uncovered_where_there_is_room():
    mark = Mark(30.0, 0.1, "512")
    (above,) = place_labels([mark], PLOT)
    assert above.label_y > 0.1
    line = [(10.0, above.label_y), (100.0, above.label_y)]
    (below,) = place_labels([mark], PLOT, lines=[line])
    assert below.label_y < 0.1
    name = LineName("best linear 0.1", 0.1, is_right=False, is_below=False)
    (away,) = place_labels([mark._replace(x=2.0)], PLOT, names=[name])
    x = DIGIT * len(name.text)
    height = pixels(1.0, 0.1)[1] + 7
    assert not overlap(box(away), (0.0, x, height - HEIGHT / 2, height + HEIGHT / 2))


@pytest.mark.parametrize(
    ("points", "is_right"),
    [
        ([(2.0, 0.17)], True),
        ([(900.0, 0.17)], False),
        ([(2.0, 0.17), (900.0, 0.169999)], True),
        ([], False),
    ],
)
def test_a_line_has_its_name_at_the_end_that_points_leave_free(points, is_right):
    references = [{"name": "best linear 0.1700", "loss": 0.17002, "lowest": False}]
    (name,) = line_names(references, PLOT, points)
    assert name == LineName("best linear 0.1700", 0.17002, is_right=is_right, is_below=False)
