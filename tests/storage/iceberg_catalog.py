"""A catalog for tests, since pyiceberg writes tables through catalogs only."""

from typing import Any

import pyarrow as pa
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table import CommitTableResponse, StaticTable, Table
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.utils.concurrent import ExecutorFactory


class OneTable(MetastoreCatalog):
    """A catalog that keeps the place of one table's metadata in memory."""

    newest = ""

    def create(self, location: str, table: pa.Table) -> Table:
        staged = self._create_staged_table(
            ("db", "t"),
            table.schema,
            location,
            UNPARTITIONED_PARTITION_SPEC,
            UNSORTED_SORT_ORDER,
        )
        self._keep(staged)
        created = self.load_table(("db", "t"))
        created.append(table)
        return created

    def _keep(self, staged: Any) -> None:
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        self.newest = staged.metadata_location

    def load_table(self, identifier: Any) -> Table:
        table = StaticTable.from_metadata(self.newest, self.properties)
        return Table(identifier, table.metadata, self.newest, table.io, self)

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        current = self.load_table(table.name())
        self._keep(self._update_and_stage_table(current, table.name(), requirements, updates))
        metadata = self.load_table(table.name()).metadata
        return CommitTableResponse(metadata=metadata, metadata_location=self.newest)


OneTable.__abstractmethods__ = frozenset()  # what these tests do not call


def end_threads() -> None:
    """End the threads of pyiceberg, which it keeps for the life of the process."""
    ExecutorFactory.get_or_create().shutdown()
    ExecutorFactory._instance = None
