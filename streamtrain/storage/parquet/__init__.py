"""Parquet shards: the reader, the fast path for plain pages, the guard against hostile files."""
