"""A cluster on this machine: who may connect, what listens, and scripts without a guard."""

import asyncio
import multiprocessing
import os
import re
import runpy
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import distributed
import psutil
import pytest

from streamtrain.cluster.connect import connect
from streamtrain.cluster.local_cluster import local_cluster, start_twice
from streamtrain.config import ClusterConfig
from streamtrain.errors import ConfigError, ResourceError
from tests.cluster.conftest import addresses_listened_at


def test_no_port_is_open_to_other_machines(client):
    assert addresses_listened_at(client) == {"127.0.0.1"}


def test_it_shares_cores_and_leaves_memory_to_us(connection):
    workers = connection.client.scheduler_info(n_workers=-1)["workers"].values()
    assert len(workers) == 2
    assert {worker["nthreads"] for worker in workers} == {max(1, len(os.sched_getaffinity(0)) // 2)}
    assert {worker["resources"]["trainer"] for worker in workers} == {1}
    assert connection.is_ours


def without_a_key():
    context = ssl.create_default_context()
    context.check_hostname = False
    return {"ssl_context": context}


def with_another_key():
    return distributed.Security.temporary().get_connection_args("client")


@pytest.mark.parametrize("credentials", [without_a_key, with_another_key, None])
def test_another_user_of_this_machine_is_not_let_in(client, credentials):
    """Whoever is let in can run code as the owner of the scheduler and of the workers."""

    async def knock(address, **arguments):
        comm = await distributed.core.connect(address, timeout=2, **arguments)
        comm.abort()

    ports = [client.scheduler.address, *client.scheduler_info(n_workers=-1)["workers"]]
    for port in ports:
        asyncio.run(knock(port, **client.security.get_connection_args("client")))
        with pytest.raises(OSError):  # noqa: PT011
            if credentials is None:
                asyncio.run(knock(port.replace("tls://", "tcp://")))
            else:
                given = credentials()
                given["ssl_context"].verify_mode = ssl.CERT_NONE
                asyncio.run(knock(port, **given))


def test_there_is_no_dashboard_unless_it_is_asked_for(connection, forked_workers):
    assert connection.dashboard is None
    link = connection.client.dashboard_link
    for page in ("status", "info/main/workers.html", "json/counts.json", "metrics", "health"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(link.replace("status", page), timeout=5)
        caught.value.close()
        assert caught.value.code == 404
    with connect(ClusterConfig(workers=1, dashboard=True)) as asked:
        assert asked.dashboard.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(asked.dashboard.replace("status", "health"), timeout=5) as page:
            assert page.status == 200


def test_without_bokeh_nothing_listens_elsewhere_either(forked_workers, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with connect(ClusterConfig(workers=1)) as connection:
        assert addresses_listened_at(connection.client) == {"127.0.0.1"}


def test_without_cryptography_the_extra_is_named(monkeypatch):
    def temporary():
        raise ImportError("no cryptography")

    monkeypatch.setattr(distributed.Security, "temporary", temporary)
    with (
        pytest.raises(ConfigError, match=r"pip install 'streamtrain\[cluster\]'"),
        connect(ClusterConfig(workers=1)),
    ):
        pass


def test_ctrl_c_is_left_to_the_driver(monkeypatch):
    """A terminal sends it to every process; a worker would print a traceback and die."""
    blocked = []

    def start_worker(**options):
        """As Dask does: a process, from a thread that the cluster has started."""
        if "n_workers" in options:
            thread = threading.Thread(target=start_worker)
            thread.start()
            thread.join()
            return nullcontext()
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()
        status = Path(f"/proc/{process.pid}/status").read_text()
        blocked.append(int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16))
        process.kill()
        process.join()

    monkeypatch.setattr(distributed, "LocalCluster", start_worker)
    with local_cluster(2, dashboard=False, distributed=distributed):
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert blocked[0] >> (signal.SIGINT - 1) & 1


@pytest.mark.slow
def test_ctrl_c_ends_the_command_without_tracebacks_and_its_workers(data, tmp_path):
    words = f"train {data} --batch-size 64 --epochs 9999 --sync rounds --workers 2 --no-report"
    command = [sys.executable, "-m", "streamtrain", *words.split(), "--out", str(tmp_path / "run")]
    said = tmp_path / "said"
    with said.open("w") as file:
        # as a terminal does: a group of processes, each of which gets the signal
        driver = subprocess.Popen(command, stderr=file, start_new_session=True)
    log = tmp_path / "run/events.jsonl"
    while driver.poll() is None and not (log.exists() and '"round"' in log.read_text()):
        time.sleep(0.2)
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(10) == 130, said.read_text()
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert "Traceback" not in said.read_text()
    assert said.read_text().endswith("interrupted\n")


CHECK = "from streamtrain.cluster.local_cluster import _require_main_guard as start\n"
GUARDED = {
    "guard": 'if __name__ == "__main__":\n    start()\n',
    "function": 'def main():\n    start()\nif "__main__" == __name__:\n    main()\n',
    "early end": 'if __name__ != "__main__":\n    raise SystemExit\nstart()\n',
    "parent": "import multiprocessing as m\nif m.parent_process() is None:\n    start()\n",
}
UNGUARDED = {
    "plain": ("start()\n", 2),
    "function": ("def main():\n    start()\n\nmain()\n", 5),
    "late guard": ('start()\nif __name__ == "__main__":\n    pass\n', 2),
    "other condition": ("import sys\nif sys.argv:\n    start()\n", 4),
}


@pytest.mark.parametrize("script", GUARDED.values(), ids=GUARDED)
def test_a_script_with_a_guard_may_start_workers(tmp_path, script):
    (tmp_path / "script.py").write_text(CHECK + script)
    runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")


@pytest.mark.parametrize(("script", "line"), UNGUARDED.values(), ids=UNGUARDED)
def test_a_script_without_a_guard_is_refused_before_it_is_run_by_each_worker(
    tmp_path, script, line
):
    (tmp_path / "script.py").write_text(CHECK + script)
    with pytest.raises(
        ConfigError, match=rf'script\.py, line {line}: .* `if __name__ == "__main__":`'
    ):
        runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")


def test_dask_is_started_once_more_where_its_event_loop_came_too_late():
    outcomes = iter([AssertionError(), "client"])

    def start():
        outcome = next(outcomes)
        if isinstance(outcome, AssertionError):
            raise outcome
        return outcome

    assert start_twice(start) == "client"
    outcomes = iter([AssertionError(), AssertionError()])
    with pytest.raises(ResourceError, match="did not start within 10 s, twice"):
        start_twice(start)
