"""Workers as pods.

Set IMAGE to one with your version of streamtrain, and the claim to your data's.
"""

from dask_kubernetes.operator import KubeCluster, make_cluster_spec

IMAGE, WORKERS, CLAIM = "registry.example.org/streamtrain:latest", 8, "training-data"


def make() -> KubeCluster:
    """For `--cluster kubernetes_cluster:make`.

    WORKERS pods of one worker with 4 threads each, the data mounted at /data.
    """
    spec = make_cluster_spec(
        name="streamtrain",
        image=IMAGE,
        n_workers=WORKERS,
        resources={"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
        env={"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        worker_command=["dask", "worker", "--nthreads", "4", "--memory-limit", "8GB"],
    )
    pod = spec["spec"]["worker"]["spec"]
    pod["volumes"] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}
    ]
    pod["containers"][0]["volumeMounts"] = [
        {"name": "data", "mountPath": "/data", "readOnly": True}
    ]
    return KubeCluster(custom_cluster_spec=spec)
