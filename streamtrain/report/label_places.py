"""Places of labels beside points: no label covers another, and few cover a point or a line.

A chart is as wide as its page, so places are computed for the narrowest plot. Labels are centred at
their points or start at them, and have a fixed width in pixels: in a wider plot they are further
apart. Everything is decided by the values, so a report has the same places each time.
"""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from typing import NamedTuple

import numpy as np

from streamtrain.report.axis import share_of, spread
from streamtrain.report.measure_data import Row

Point = tuple[float, float]

#: Pixels across the plot of a chart in a page of 390 pixels.
_WIDTH = 230.0
#: Pixels from a line of text to the next, across a digit of 11 pixels, and between two labels.
_LINE, _DIGIT, _GAP = 15.0, 6.6, 4.0
#: Pixels from a point to the centre of the first label above or below it, which is outside of a
#: ring, and to the start of one beside it.
_FIRST, BESIDE = 17.0, 12
#: Pixels from a line to the centre of its name.
NAME_ABOVE, NAME_BELOW = 7.0, 9.0
#: Points this near to the rightmost one, in pixels, have their labels to their right.
_COLUMN = 8.0
#: What a place costs: per text that it meets, per stem behind a text, per point that it covers, per
#: line of text that it is further from its point, below the point, and per sample of a line.
_MEETS, _CROSSED, _COVERS, _FURTHER, _BELOW, _SAMPLE = 1e6, 100.0, 30.0, 4.0, 1.0, 1.0
#: Labels this much nearer than a line of text do not meet: it is the error of rounding.
_TOUCH = 1e-6
#: Samples of a line between two of its points.
_SAMPLES = 8


class Plot(NamedTuple):
    """The area of a chart: the ends of its log axes, left and bottom first, and its pixels up."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float


class Mark(NamedTuple):
    """A point and the text of its label."""

    x: float
    y: float
    text: str


class Label(NamedTuple):
    """A label: its point and text, and the height `label_y` of its centre.

    `stem`: the height at which a line from the point ends, None without one. `align` is that of
    Vega, and `dx` the pixels from the point.
    """

    x: float
    y: float
    text: str
    label_y: float
    stem: float | None
    align: str
    dx: float


class LineName(NamedTuple):
    """The name of a horizontal line at the value `y`, at its left or right end."""

    text: str
    y: float
    is_right: bool
    is_below: bool


class _Box(NamedTuple):
    """The area of a label, and the stem to it, in pixels."""

    left: float
    right: float
    bottom: float
    top: float
    stem_x: float = math.nan
    stem_low: float = math.nan
    stem_high: float = math.nan

    @property
    def middle(self) -> float:
        """The height of the label's centre."""
        return (self.bottom + self.top) / 2

    def meets(self, other: "_Box") -> bool:
        """Return whether the labels overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top - _TOUCH
            and other.bottom < self.top - _TOUCH
        )

    def is_crossed_by(self, other: "_Box") -> bool:
        """Return whether the stem of the other goes behind this label."""
        is_beside = self.left < other.stem_x < self.right  # NaN is never between
        return is_beside and self.bottom < other.stem_high and other.stem_low < self.top

    def count(self, places: np.ndarray) -> int:
        """Return how many of the places (places, 2) lie below the label."""
        x, y = places.T
        inside = (self.left < x) & (x < self.right) & (self.bottom < y) & (y < self.top)
        return int(np.count_nonzero(inside))


def place_labels(
    marks: Sequence[Mark],
    plot: Plot,
    *,
    lines: Sequence[Sequence[Point]] = (),
    names: Sequence[LineName] = (),
    column: bool = False,
) -> list[Label]:
    """Return the labels of the marks, in their order, in which they choose their places.

    With a `column`, marks at the right end have theirs to the right. All others are above or below
    their points, as far away as the others require; a stem leads to those that are not on the next
    line. `lines`: what else is drawn, each as its points; `names`: other texts.
    """
    places = _pixels([(mark.x, mark.y) for mark in marks], plot)
    end = places[:, 0].max(initial=0.0) - _COLUMN
    beside = [k for k in range(len(marks)) if column and places[k, 0] >= end]
    labels: dict[int, Label] = {}
    taken = [_name_box(name, plot) for name in names]
    for k, height in zip(beside, _column_heights(places[beside, 1], plot), strict=True):
        left = places[k, 0] + BESIDE
        taken.append(_box(left, _width(marks[k].text), height))
        labels[k] = Label(*marks[k], _value(height, plot), None, "left", BESIDE)
    rest = [k for k in range(len(marks)) if k not in labels]
    widths = [_width(marks[k].text) for k in rest]
    samples = _sampled(lines, plot)
    chosen = _places(places[rest], widths, plot, taken, samples, in_rows=False)
    boxes = [place.box for place in chosen]
    if any(one.meets(other) for one, other in [*combinations(boxes, 2), *product(boxes, taken)]):
        # rows of the whole plot leave no gaps that are less than a line
        chosen = _places(places[rest], widths, plot, taken, samples, in_rows=True)
    for k, place in zip(rest, chosen, strict=True):
        stem = None if math.isnan(place.box.stem_x) else _value(place.stem_end, plot)
        label_y = _value(place.box.middle, plot)
        labels[k] = Label(*marks[k], label_y, stem, place.align, place.dx)
    return [labels[k] for k in range(len(marks))]


class _Place(NamedTuple):
    """A place above or below a point, in pixels."""

    box: _Box
    stem_end: float
    align: str
    dx: float


def _places(
    points: np.ndarray,
    widths: Sequence[float],
    plot: Plot,
    taken: Sequence[_Box],
    samples: np.ndarray,
    *,
    in_rows: bool,
) -> list[_Place]:
    """Return a place for each of the points, pixels (points, 2), which choose in turn."""
    boxes, chosen = list(taken), list[_Place]()
    for k, width in enumerate(widths):
        others = np.delete(points, k, axis=0)
        y = float(points[k, 1])
        heights = _rows(y, plot) if in_rows else _next_lines(y, plot)
        best = _place(points[k], width, heights[0])
        least = _cost(best.box, y, boxes, others, samples)
        for middle in heights[1:]:
            # heights are ascending in distance, which is a part of each cost
            if _distance_cost(middle, y) >= least:
                break
            place = _place(points[k], width, middle)
            cost = _cost(place.box, y, boxes, others, samples)
            if cost < least:
                best, least = place, cost
        chosen.append(best)
        boxes.append(best.box)
    return chosen


def _distance_cost(middle: float, y: float) -> float:
    return _FURTHER * (abs(middle - y) - _FIRST) / _LINE


def _place(point: np.ndarray, width: float, middle: float) -> _Place:
    """Return the place of a label of this width whose centre is at the height `middle`."""
    x, y = map(float, point)
    align, dx, left = "center", 0.0, x - width / 2
    if left < 0:  # the label would cover those of the axis
        align, dx, left = "left", -_DIGIT / 2, x - _DIGIT / 2
    box = _box(left, width, middle)
    stem_end = middle - math.copysign(_LINE / 2, middle - y)
    if abs(middle - y) > _FIRST + _LINE / 2:
        box = box._replace(stem_x=x, stem_low=min(y, stem_end), stem_high=max(y, stem_end))
    return _Place(box, stem_end, align, dx)


def _cost(
    box: _Box, y: float, boxes: Sequence[_Box], others: np.ndarray, samples: np.ndarray
) -> float:
    """Return what a place costs a point at the height `y`, beside the boxes that are taken."""
    cost = _distance_cost(box.middle, y) + (_BELOW if box.middle < y else 0.0)
    cost += _MEETS * sum(box.meets(other) for other in boxes)
    cost += _CROSSED * sum(box.is_crossed_by(other) for other in boxes)
    cost += _CROSSED * sum(other.is_crossed_by(box) for other in boxes)
    return cost + _COVERS * box.count(others) + _SAMPLE * box.count(samples)


def _next_lines(y: float, plot: Plot) -> list[float]:
    """Return heights above and below a point, whole lines from the first, inside the plot.

    They are ascending in distance, at equal ones the one above first.
    """
    distances = _FIRST + _LINE * np.arange(plot.height // _LINE)
    heights = np.stack([y + distances, y - distances], axis=1).ravel()
    inside = (heights >= _LINE / 2) & (heights <= plot.height - _LINE / 2)
    return heights[inside].tolist() or [y + _FIRST]


def _rows(y: float, plot: Plot) -> list[float]:
    """Return the heights of lines of text that fill the plot, but for those at the point.

    They are ascending in distance, at equal ones the one above first.
    """
    heights = _LINE * (np.arange(plot.height // _LINE) + 0.5)
    far = heights[abs(heights - y) >= _FIRST].tolist()
    return sorted(far, key=lambda height: (abs(height - y), -height))


def _column_heights(heights: np.ndarray, plot: Plot) -> list[float]:
    """Return the heights moved apart to a line of text, inside the plot, in their order."""
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    apart = spread([float(heights[k]) for k in order], _LINE, _LINE / 2)
    top = plot.height - _LINE / 2
    moved = [0.0] * len(order)
    for rank, (k, height) in enumerate(zip(order, apart, strict=True)):
        moved[k] = min(height, top - _LINE * (len(order) - 1 - rank))
    return moved


def _pixels(points: Sequence[Point], plot: Plot) -> np.ndarray:
    """Return points in pixels from the bottom left of the plot, (points, 2)."""
    logs = np.log(np.array(points, dtype=np.float64).reshape(-1, 2))
    low, high = np.log([plot.x, plot.y]).T
    return (logs - low) / (high - low) * [_WIDTH, plot.height]


def _sampled(lines: Sequence[Sequence[Point]], plot: Plot) -> np.ndarray:
    """Return places along the lines, in pixels (places, 2)."""
    pairs = [pair for line in lines for pair in pairwise(line)]
    starts, stops = (_pixels([pair[end] for pair in pairs], plot) for end in (0, 1))
    shares = (np.arange(_SAMPLES) / _SAMPLES)[:, None, None]
    return (starts + shares * (stops - starts)).reshape(-1, 2)


def _value(height: float, plot: Plot) -> float:
    """Return the value at a height in pixels."""
    return plot.y[0] * (plot.y[1] / plot.y[0]) ** (height / plot.height)


def _width(text: str) -> float:
    return _DIGIT * len(text) + _GAP


def _box(left: float, width: float, middle: float) -> _Box:
    return _Box(left, left + width, middle - _LINE / 2, middle + _LINE / 2)


def _name_box(name: LineName, plot: Plot) -> _Box:
    width, height = _width(name.text), plot.height * share_of(name.y, plot.y)
    left = _WIDTH - width if name.is_right else 0.0
    return _box(left, width, height + (-NAME_BELOW if name.is_below else NAME_ABOVE))


def line_names(references: Sequence[Row], plot: Plot, points: Sequence[Point]) -> list[LineName]:
    """Return the names of the lines of reference losses, each at the end that points leave free.

    That of the best possible loss is below its line, where no point can be.
    """
    marks = [(share_of(x, plot.x), y) for x, y in points]
    left = [y for share, y in marks if share < 0.4]
    right = [y for share, y in marks if share > 0.6]
    return [
        LineName(
            row["name"],
            row["loss"],
            _distance(row["loss"], left) < _distance(row["loss"], right),
            row["lowest"],
        )
        for row in references
    ]


def _distance(value: float, others: Sequence[float]) -> float:
    """Return the distance to the nearest of the others, on a log axis."""
    return min((abs(math.log(other / value)) for other in others), default=math.inf)
