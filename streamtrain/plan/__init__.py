"""The order of rows as arithmetic: spans, keyed permutations, hold-out, windows. Reads no data."""
