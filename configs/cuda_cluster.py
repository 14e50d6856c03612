"""One Dask worker per GPU, on loopback, so that no other machine can reach it."""

from dask_cuda import LocalCUDACluster


def make() -> LocalCUDACluster:
    """Start a worker per GPU in CUDA_VISIBLE_DEVICES: `--cluster cuda_cluster:make`."""
    return LocalCUDACluster(
        host="127.0.0.1",
        threads_per_worker=1,
        device_memory_limit=None,  # no spilling from GPU memory
        dashboard_address="127.0.0.1:0",
    )
