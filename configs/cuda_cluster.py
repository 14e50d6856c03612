"""One worker a GPU, on loopback: nobody else can reach it."""

from dask_cuda import LocalCUDACluster


def make() -> LocalCUDACluster:
    """For `--cluster cuda_cluster:make`: every GPU that CUDA_VISIBLE_DEVICES shows, blocks left
    where they are.
    """
    return LocalCUDACluster(
        host="127.0.0.1",
        threads_per_worker=1,
        device_memory_limit=None,
        dashboard_address="127.0.0.1:0",
    )
