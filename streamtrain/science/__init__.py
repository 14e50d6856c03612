"""What measurements mean: arrays in, values out, with NumPy and SciPy only.

Nothing here reads a file or a clock, or has global state. A value with an interval is an
`intervals.Estimate`.

The records of a run: `run_log`, `cells`, `crossing`, `equal_budget`, `judge`, `rule`, `tuning`.
The laws fitted to them: `steps_law` (steps against batch size), `throughput` (seconds of a step),
and `landmarks`, which joins both.
A model, through callables `value_and_grad` and `hvp` (training/probes.py): `noise_scale`,
`curvature`, `sharpness`, `shuffle_quality`.
Exact answers: `oracle`.
"""
