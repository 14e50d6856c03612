"""Open a foreign table with the library of its kind."""

from streamtrain.storage.foreign.delta_table import open_delta
from streamtrain.storage.foreign.duckdb_table import open_duckdb
from streamtrain.storage.foreign.foreign_source import ForeignSource
from streamtrain.storage.foreign.foreign_table import ForeignTable
from streamtrain.storage.foreign.iceberg_table import open_iceberg

_OPENERS = {"Delta": open_delta, "Iceberg": open_iceberg, "DuckDB": open_duckdb}


def open_foreign(source: ForeignSource) -> ForeignTable:
    """Return the table. Raises DataError, and ConfigError when its library is not installed."""
    return _OPENERS[source.kind](source)
