"""Synchronous all-reduce on a cluster: lanes of data, and one gradient sum over workers per step.

The rest of the package imports `allreduce_pass.py` only: the driver's half. Workers run
`lane_tasks.py`, which holds a `LaneSession` between tasks: feeds that read lanes (`lane_feed.py`),
an engine that adds their gradients (`lane_engine.py`), and a sum over workers (`collective.py`).
`lanes.py` is the arithmetic, `lane_work.py` what driver and workers send each other.
"""
