"""The same job on a Dask cluster: work leased to workers, their death survived, results that do not
depend on who did what.

`placement.py` and `leases.py` say who does what next, `crew.py` and `dispatch.py` drive them over a
`ClusterBackend`: a Dask cluster (`dask_fabric.py`), or a thousand simulated workers
(`simulate.py`).
"""
