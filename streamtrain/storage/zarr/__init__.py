"""Zarr arrays: nodes, chunks, the reader and the writer."""
