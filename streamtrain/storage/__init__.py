"""Shards on disk: found, described by their footers, read by row range, written with a manifest.

- `dataset.open_shards`: a path → `Dataset` (shards in order, columns bound by name); reads footers
  only.
- `readers.Readers`: rows of one shard → decoded NumPy columns; any thread, any range.
- `ingest.ingest`, `inspect.inspect`: foreign data → verified shards; what the footers say, with
  advice.
- `writer.write_dataset`, `manifest.Manifest`: how our own shards are written, and what vouches for
  them.

pyarrow is imported here (not in `zarr*.py`), zarr in `zarr*.py` only.
"""
