"""Dask workers as SLURM jobs.

Copy this file beside your config, and set what your site requires: queue, account, time.
"""

from dask_jobqueue import SLURMCluster

JOBS = 8


def make() -> SLURMCluster:
    """Start JOBS jobs of one worker, 4 threads and 8 GB each: `--cluster slurm_cluster:make`."""
    cluster = SLURMCluster(
        queue="normal",
        account=None,
        walltime="02:00:00",
        cores=4,
        processes=1,
        memory="8GB",
        # the network between nodes, such as `ib0`; None: that of the host name
        interface=None,
        # workers leave before SLURM ends their jobs, and not all at the same time
        worker_extra_args=["--lifetime", "115m", "--lifetime-stagger", "4m"],
        job_script_prologue=[  # so that Numba and BLAS use the cores of the job, and no more
            "export NUMBA_NUM_THREADS=4 OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2"
        ],
    )
    cluster.scale(jobs=JOBS)
    return cluster
