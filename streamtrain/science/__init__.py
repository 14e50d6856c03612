"""What the measurements mean: arrays in, figures out; NumPy and SciPy only, no file, no clock, no global state.

`interval` gives a median its 95 % interval, `crossing` says when a loss curve reaches a target, `rule` recommends a size.
"""
