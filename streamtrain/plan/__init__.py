"""The row order as arithmetic: spans, keyed permutations, hold-out, windows. Reads no data."""
