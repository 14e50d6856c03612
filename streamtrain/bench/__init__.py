"""Benchmarks: delivery and training steps against other code, on the same files and rows.

All sides of a benchmark take turns in one process. `stream_bench`, `step_bench`, `train_bench` and
`cluster_bench` are the commands `streamtrain bench …`. `baselines` and `torch_loop` are the other
sides, written on purpose in plain pyarrow, NumPy and torch.
"""
