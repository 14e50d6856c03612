"""Shards on disk and in object stores: find, describe, read, verify and write them.

- `dataset.open_shards`: a path → `Dataset` (shards in order, columns bound by name). Reads footers
  only.
- `readers.Readers`: rows of one shard → decoded NumPy columns, for any range, from any thread.
- `inspect.inspect`: what the footers say, with advice. `verify.verify`: every byte is checked.
- `write.ingest.ingest`: foreign data → verified shards. `write.writer.write_dataset` writes our own
  shards, and `manifest.Manifest` holds the hashes that verify them.

zarr is imported in `zarr/` only. pyarrow is imported in this folder and in `bench/baselines.py`.
"""
