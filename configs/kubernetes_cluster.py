"""Dask workers as Kubernetes pods.

Set IMAGE to an image with your version of streamtrain, and CLAIM to the volume claim of your data.
"""

from dask_kubernetes.operator import KubeCluster, make_cluster_spec

IMAGE = "registry.example.org/streamtrain:latest"
WORKERS = 8
CLAIM = "training-data"


def make() -> KubeCluster:
    """Start WORKERS pods, each of one worker with 4 threads: `--cluster kubernetes_cluster:make`.

    The data is mounted at /data.
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
