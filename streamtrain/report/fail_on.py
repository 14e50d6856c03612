"""`--fail-on`: limits on the changes of a comparison, as `rows_per_second<-5%,holdout_loss>+1%`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError
from streamtrain.report.compare import FIGURES, change_text
from streamtrain.report.number_format import size_text

_LIMIT = re.compile(r"\s*([a-z_]+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """The check fails when `figure` changed by less (`<`) or more (`>`) than `change`, a
    fraction.
    """

    figure: str
    sign: Literal["<", ">"]
    change: float

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{100 * self.change:+g}%"

    def crossed(self, change: float) -> bool:
        return change < self.change if self.sign == "<" else change > self.change


def parse_limits(text: str) -> list[Limit]:
    """Limits by commas. Raises ConfigError that shows how to write one.

    >>> [str(limit) for limit in parse_limits("rows_per_second<-5%, holdout_loss>+1%")]
    ['rows_per_second<-5%', 'holdout_loss>+1%']
    """
    limits = []
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"--fail-on {part.strip()!r}: write it like rows_per_second<-5% or holdout_loss>+1%"
            )
        if match[1] not in FIGURES:
            raise ConfigError(
                f"--fail-on {match[1]}: unknown figure.{did_you_mean(match[1], FIGURES)} Known:"
                f" {', '.join(FIGURES)}."
            )
        limits.append(Limit(match[1], "<" if match[2] == "<" else ">", float(match[3]) / 100))
    return limits


def check_limits(
    document: Mapping[str, Any], limits: Sequence[Limit]
) -> tuple[list[str], list[str]]:
    """`(failures, doubts)`, a sentence each.

    A limit fails where the change is beyond it and no accident: its interval leaves out 0, or there
    is none (a single run). A change beyond the limit whose interval has 0 in it is a doubt. A
    figure that B lost fails where the limit is on its getting worse; one that A or both lack is a
    doubt, for a check of nothing must not pass in silence.
    """
    failures, doubts = [], []
    for limit in limits:
        rises = FIGURES[limit.figure][2]
        guards_worse = (limit.sign == "<") == rises
        known, gained = 0, False
        for cell in document["cells"]:
            figure = cell[limit.figure]
            where = f"{size_text(cell['batch_size'])}: {limit.figure}"
            known += figure["verdict"] not in ("none", "gained")
            gained |= figure["verdict"] == "gained"
            if figure["verdict"] == "missing" and guards_worse:
                failures.append(
                    f"{where} has no value in B ({cell['status'][1].replace('_', ' ')}); the limit"
                    f" is {limit}"
                )
            elif figure["change"] is not None and limit.crossed(figure["change"]):
                text = f"{where} changed by {change_text(figure)}; the limit is {limit}"
                (
                    doubts
                    if figure["verdict"] == "undecided" and figure["lo"] is not None
                    else failures
                ).append(text)
        if not known:
            doubts.append(
                f"{limit}: {'A does not have' if gained else 'neither run has'} {limit.figure};"
                " nothing was checked"
            )
    return failures, doubts
