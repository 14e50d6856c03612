"""Local SGD on a cluster: rounds of independent steps, each followed by an average of parameters.

`rounds.py` cuts a run into rounds and shares, `round_worker.py` trains a share on a worker, and
`rounds_pass.py` drives them.
"""
