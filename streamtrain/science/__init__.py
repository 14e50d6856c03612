"""What the measurements mean: arrays in, figures out; NumPy and SciPy only, no file, no clock, no
global state.

Of a sweep's records: `run`, `cells`, `crossing`, `interval`, `ratio`, `rule`, `judge`, `landmarks`,
`tuning`. Of a model, through callables `value_and_grad` and `hvp` (learners/probes.py):
`noise_scale`, `sqrt_law`, `lanczos`, `stability`, `sharpness`, `generalization`, `shuffle_quality`;
each gives `{value, lo, hi, n, kind}` (`estimate`, `fieller`). Laws that join them: `throughput`
(seconds of a step), `steps_law` (steps against size). Exact answers: `oracle`, `noisy_quadratic`.
"""
