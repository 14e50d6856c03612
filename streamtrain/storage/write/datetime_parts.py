"""Columns of a table as they are delivered: a date or a time may become several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streamtrain.storage.datetime_values import (
    Part,
    datetime_part,
    parts_of_type,
    stores_datetime,
)
from streamtrain.storage.decode import decode_arrow, refuse_repeated
from streamtrain.types import Column, Datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The columns of a table as it delivers them.

    Attributes:
        columns: All columns; parts take the place of their date or time.
        parts: Name of a part → the stored column, and which part.
    """

    columns: tuple[Column, ...]
    parts: Mapping[str, tuple[str, Part]]

    def stored(self, chosen: Sequence[str]) -> list[str]:
        """Return the stored columns, each once, that the `chosen` are made from."""
        return list(dict.fromkeys(self.source(name) for name in chosen))

    def source(self, name: str) -> str:
        """Return the stored column that a column is made from."""
        return self.parts[name][0] if name in self.parts else name

    def decode(self, name: str, values: pa.ChunkedArray, decoded_type: str) -> np.ndarray:
        """Return a column, made from the `values` of its stored one.

        Raises ColumnError as `decode_arrow` does.
        """
        if name not in self.parts:
            return decode_arrow(name, values, decoded_type)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        return datetime_part(values, self.parts[name][1]).astype(decoded_type, copy=False)


def delivered(columns: Sequence[Column], choice: Datetime | None) -> Delivered:
    """Return what a table with these columns delivers under a choice of `--datetime`.

    A part has the name of its column and its own: `start_hour`. Where another column has that name
    already, both are refused.
    """
    made: list[Column] = []
    parts: dict[str, tuple[str, Part]] = {}
    for column in columns:
        if choice != "parts" or not column.decoded_type or not stores_datetime(column.stored_type):
            made.append(column)
            continue
        for part in parts_of_type(column.stored_type):
            name = f"{column.name}_{part}"
            parts[name] = column.name, part
            made.append(
                Column(
                    name=name,
                    stored_type=f"{part} of {column.stored_type}",
                    decoded_type="float32",
                    place=column.place,
                )
            )
    return Delivered(columns=refuse_repeated(made), parts=parts)
