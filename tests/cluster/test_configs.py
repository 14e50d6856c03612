"""The examples in configs/: each names a factory that exists and calls its library correctly."""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from distributed import LocalCluster

from streamtrain.cli.config_layers import file_layer, resolve
from streamtrain.cluster.choice import is_wanted

CONFIGS = Path(__file__).parents[2] / "configs"


class Cluster(SimpleNamespace):
    """A stand-in that keeps the arguments that the real class takes, according to its source."""

    scheduler_address = "tcp://127.0.0.1:1"

    def scale(self, jobs):
        self.jobs = jobs


def slurm(**options):
    accepted = {
        "queue",
        "account",
        "walltime",
        "cores",
        "processes",
        "memory",
        "interface",
        "worker_extra_args",
        "job_script_prologue",
    }
    assert options.keys() <= accepted
    return Cluster(**options)


def cuda(**options):
    own = {"device_memory_limit", "threads_per_worker", "dashboard_address"}
    assert options.keys() <= own | set(inspect.signature(LocalCluster.__init__).parameters)
    return Cluster(**options)


def make_cluster_spec(*, name, image, n_workers, resources, env, worker_command):
    """Return the parts of dask-kubernetes' spec that the factory adds to."""
    container = {
        "name": "worker",
        "image": image,
        "args": worker_command,
        "env": env,
        "resources": resources,
    }
    return {
        "metadata": {"name": name},
        "spec": {"worker": {"replicas": n_workers, "spec": {"containers": [container]}}},
    }


FAKES = {
    "dask_jobqueue": {"SLURMCluster": slurm},
    "dask_cuda": {"LocalCUDACluster": cuda},
    "dask_kubernetes": {},
    "dask_kubernetes.operator": {"KubeCluster": Cluster, "make_cluster_spec": make_cluster_spec},
}


@pytest.fixture
def fakes(monkeypatch):
    """Install modules with the names that the factories import; the libraries are not here."""
    for name, members in FAKES.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(CONFIGS))


@pytest.mark.parametrize(
    ("name", "verb"), [("slurm", "sweep"), ("kubernetes", "train"), ("cuda", "sweep")]
)
def test_a_config_names_a_factory_that_makes_a_cluster(name, verb, fakes, monkeypatch):
    config, _origins = resolve(file_layer(str(CONFIGS / f"{name}.yaml")), {}, {}, {})
    assert config.cluster.factory == f"{name}_cluster:make"
    assert f"streamtrain {verb} -c {name}.yaml" in (CONFIGS / f"{name}.yaml").read_text()
    cluster = importlib.import_module(f"{name}_cluster").make()
    assert isinstance(cluster, Cluster)
    assert is_wanted(config.cluster)
    sys.modules.pop(f"{name}_cluster")


def test_a_pod_has_the_data_of_its_config(fakes):
    cluster = importlib.import_module("kubernetes_cluster").make()
    pod = cluster.custom_cluster_spec["spec"]["worker"]["spec"]
    config, _ = resolve(file_layer(str(CONFIGS / "kubernetes.yaml")), {}, {}, {})
    mount = pod["containers"][0]["volumeMounts"][0]
    assert mount["mountPath"] == config.data.path
    assert mount["name"] == pod["volumes"][0]["name"]
    sys.modules.pop("kubernetes_cluster")
