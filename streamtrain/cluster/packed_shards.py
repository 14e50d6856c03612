"""The shards of a data set as the driver describes them, packed to be sent to workers.

With them a worker opens no footers at the start. It opens one, and compares its hash, when it first
reads that shard. Otherwise 100 workers would send 10 million requests for the footers of 100,000
shards before the first row.
"""

import hashlib
import pickle
import zlib
from dataclasses import dataclass, field, replace

from streamtrain.errors import DataError
from streamtrain.storage.dataset import FoundShards, bind_columns
from streamtrain.types import Column, Dataset, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedShards:
    """Descriptions of shards: compressed, with their hash. 100,000 take 3 MB.

    `content` includes the secrets of the storage options, so `repr` leaves it out.
    """

    content: bytes = field(repr=False)
    digest: str

    @classmethod
    def of(cls, dataset: Dataset) -> "PackedShards":
        """Pack the shards of a data set. Its columns are left out."""
        columns: dict[tuple[Column, ...], tuple[Column, ...]] = {}
        storages: dict[Storage, Storage] = {}
        # pickle writes an object once, but equal objects each time
        shards = tuple(
            replace(
                shard,
                columns=columns.setdefault(shard.columns, shard.columns),
                storage=storages.setdefault(shard.storage, shard.storage),
            )
            for shard in dataset.shards
        )
        found = FoundShards(
            url=dataset.url,
            shards=shards,
            integrity=dataset.integrity,
            truth=dataset.truth,
            digest=dataset.digest,
        )
        content = zlib.compress(pickle.dumps(found), level=1)
        return cls(content=content, digest=hashlib.sha256(content).hexdigest())

    @property
    def nbytes(self) -> int:
        """The bytes that are sent."""
        return len(self.content)

    def open(self, features: tuple[str, ...] | None, target: str | None) -> Dataset:
        """Return the data set with its columns chosen as `open_shards` does. Reads nothing.

        Raises DataError when the content is not the one that was packed.
        """
        if hashlib.sha256(self.content).hexdigest() != self.digest:
            raise DataError(
                "the driver's description of the shards was damaged on its way to a worker. Start"
                " the run again."
            )
        found = pickle.loads(zlib.decompress(self.content))
        return bind_columns(found, features=features, target=target)
