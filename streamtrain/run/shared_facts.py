"""What the driver of a run decides before the first pass, and its workers are told."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from streamtrain.config import Config
from streamtrain.records import Baseline, UntilFlat
from streamtrain.types import Standardization

#: The `last_row` of a run that only a time limit ends.
NO_LAST_ROW = 2**62


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunFacts:
    """What is decided once for all passes of a run, on all of its machines.

    `evaluation`: float32 (rows, features + 1) in model units, target last, or None. `loss_scale`
    turns r² in model units into the reported loss. `last_row` includes rows that the null policy
    may yet drop, so a pass also ends with its `last_epoch`, if it has one. `until_flat`: the limits
    of passes that end when the loss is flat; `last_row` is then the farthest row.
    """

    config: Config
    standard: Standardization
    evaluation: np.ndarray | None
    baselines: Baseline
    engine: str
    engine_reason: str
    target_sd: float
    loss_scale: float
    last_row: int
    last_epoch: int | None
    until_flat: UntilFlat | None

    @property
    def end_row(self) -> int | None:
        """The row at which a pass ends; None when a time limit or a flat loss ends it."""
        return self.last_row if self.until_flat is None and self.last_row < NO_LAST_ROW else None

    @property
    def expected_rows(self) -> int | None:
        """The rows of a pass for its engine: where one ends, or what it takes at least.

        None when only a time limit ends it.
        """
        return self.end_row if self.until_flat is None else self.until_flat.least_rows

    def facts(self) -> dict[str, Any]:
        """Return the fields of this class by name, also of an object of a subclass."""
        return {field.name: getattr(self, field.name) for field in fields(RunFacts)}
