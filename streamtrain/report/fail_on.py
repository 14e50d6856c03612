"""`--fail-on`: limits on the changes of a comparison, as `rows_per_second<-5%,holdout_loss>+1%`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, DataError
from streamtrain.report.change import change_text
from streamtrain.report.compare import FIGURES
from streamtrain.report.number_format import size_text, status_text

_LIMIT = re.compile(r"\s*([a-z_]+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """Fails when `figure` changed by less (`<`) or more (`>`) than `change`, a fraction."""

    figure: str
    sign: Literal["<", ">"]
    change: float

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{100 * self.change:+g}%"

    @property
    def guards_worse(self) -> bool:
        """True when the limit is on the figure getting worse."""
        return (self.sign == "<") == FIGURES[self.figure].more_is_better

    def crossed(self, change: float) -> bool:
        """True when a change is beyond the limit."""
        return change < self.change if self.sign == "<" else change > self.change


def parse_limits(text: str) -> list[Limit]:
    """Parse limits separated by commas.

    Raises ConfigError, which shows how to write one.

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
    """Return `(failures, doubts)`, a sentence each.

    A limit fails where the change is beyond it and its interval excludes 0, or where there is no
    interval (a single run). A change beyond the limit whose interval includes 0 is a doubt. Where B
    has lost the figure, the limit fails if it is on the figure getting worse. Where A or both lack
    it, that is a doubt, because a check that checked nothing must not pass silently. Raises
    DataError for limits on two runs that share no batch size.
    """
    if limits and not document["cells"]:
        raise DataError(
            "no batch size is in both runs, so --fail-on has nothing to check. Name runs that have"
            " a size in common, or leave it out."
        )
    failures: list[str] = []
    doubts: list[str] = []
    for limit in limits:
        figures = [(cell, cell[limit.figure]) for cell in document["cells"]]
        for cell, figure in figures:
            where = f"{size_text(cell['batch_size'])}: {limit.figure}"
            if figure["verdict"] == "missing" and limit.guards_worse:
                status = status_text(cell["status"][1])
                failures.append(f"{where} has no value in B ({status}); the limit is {limit}")
            elif figure["change"] is not None and limit.crossed(figure["change"]):
                is_doubtful = figure["verdict"] == "undecided" and figure["lo"] is not None
                sentences = doubts if is_doubtful else failures
                sentences.append(f"{where} changed by {change_text(figure)}; the limit is {limit}")
        verdicts = {figure["verdict"] for _, figure in figures}
        if verdicts <= {"none", "gained"}:
            lacking = "A does not have" if "gained" in verdicts else "neither run has"
            doubts.append(f"{limit}: {lacking} {limit.figure}; nothing was checked")
    return failures, doubts
