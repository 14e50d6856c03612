"""The same run on the workers of a Dask cluster: results do not depend on who did the work.

- `connect.py`, `versions.py`: connect to a cluster, or start one here, and compare versions.
- `backend.py`: the driver's interface to a cluster; `dask_backend.py` implements it with Dask, and
  `bench/simulated_backend.py` with a simulation.
- `worker_pool.py`, `worker_group.py`: the workers the driver knows, and those that act together.
- `scheduling.py`: leases with deadlines, retries and backup tasks, and the loop that issues them.
- `run_spec.py`, `worker.py`: what a worker needs to open the run, and the task that it performs.
- `runner.py`: chooses what runs a pass; `cluster_pass.py`: what all passes on workers share.
- `sweep_pass.py`, `sweep_slices.py`, `record_merge.py`: a sweep, one learner per work item.
- `local_sgd/`, `allreduce/`: one learner trained by all workers, the two ways of `train`.
"""
