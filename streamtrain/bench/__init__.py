"""Measurements of ourselves beside what others do with the same files, in one interleaved run.

`stream.measure_stream` is `streamtrain bench stream`. `baselines` holds the other sides: raw
decode, an expert's loop, a gather in memory. They are plain pyarrow, NumPy and torch on purpose.
"""
