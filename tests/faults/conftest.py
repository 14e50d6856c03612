import pytest

from data_gen import generate
from streamtrain.storage.write.ingest import ingest


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """One data set in both formats, with the same spans: {format: folder}."""
    folder = tmp_path_factory.mktemp("shards")
    generate(folder / "parquet", kind="friedman2", rows=12_000, span_rows=512)
    ingest(folder / "parquet", folder / "zarr", format="zarr", span_rows=512)
    return {format: folder / format for format in ("parquet", "zarr")}
