"""Workers as SLURM jobs.

Copy it beside your config, and set what your site asks for: queue, account, time.
"""

from dask_jobqueue import SLURMCluster

JOBS = 8


def make() -> SLURMCluster:
    """For `--cluster slurm_cluster:make`: JOBS jobs of one worker with 4 threads and 8 GB each."""
    cluster = SLURMCluster(
        queue="normal",
        account=None,
        walltime="02:00:00",
        cores=4,
        processes=1,
        memory="8GB",
        # the network between nodes, `ib0` for one; None: the one of the host's name
        interface=None,
        # leave before SLURM ends the job, not all at once
        worker_extra_args=["--lifetime", "115m", "--lifetime-stagger", "4m"],
        job_script_prologue=[  # before Dask starts: Numba and BLAS take the job's cores and no more
            "export NUMBA_NUM_THREADS=4 OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2"
        ],
    )
    cluster.scale(jobs=JOBS)
    return cluster
