"""`streamtrain doctor`: what this machine is, and whether streamtrain works on it, end to end."""

import importlib.util
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
from cyclopts import Parameter

from streamtrain.base.units import format_bytes, format_count, format_seconds, parse_seconds
from streamtrain.cli.flag_groups import GLOBAL, Output
from streamtrain.cli.terminal import note, plain_warnings, show, table
from streamtrain.errors import CheckFailed, ConfigError, StreamTrainError
from streamtrain.records import RunStarted

_ROWS, _SEED = 262_144, 1
_DISK_BYTES = 2**26
#: A network of 4-16-1 on a linear target with 1 % noise must at least halve what a constant leaves,
#: long before the time is over.
_LEARNED = 0.5

Finding = dict[str, Any]


def _duration(type_: Any, tokens: Any) -> float:
    """Cyclopts' converter for `5s`, `1m`."""
    return parse_seconds(tokens[0].value)


def doctor(
    *,
    seconds: Annotated[
        float,
        Parameter(
            group=GLOBAL,
            metavar="T",
            converter=_duration,
            n_tokens=1,
            help="how long the self check trains",
        ),
    ] = 5.0,
    output: Output = Output(),
) -> None:
    """Describe this machine, and train on made-up data to see that everything works.

    Paste it into an issue. Exit 5: a check failed.
    """
    if seconds <= 0:
        raise ConfigError(
            f"--seconds {seconds:g}: the self check trains for longer than nothing. Write it"
            " like 5s."
        )
    with plain_warnings(quiet=output.quiet):
        facts = machine()
        findings = [
            _disk(),
            *_self_checks(
                seconds, say=(lambda text: None) if output.quiet or output.json else note
            ),
        ]
    document = {
        "schema_version": 1,
        "machine": facts,
        "checks": findings,
        "healthy": all(one["ok"] for one in findings),
    }
    show(page(document), document, as_json=output.json)
    if not document["healthy"]:
        raise CheckFailed(
            "\n".join(f"{one['check']}: {one['found']}" for one in findings if not one["ok"])
        )


def page(document: dict[str, Any]) -> str:
    """Facts, then checks, then the verdict: plain text, made to be pasted."""
    checks = [
        ["ok" if one["ok"] else "FAILED", one["check"], one["found"]] for one in document["checks"]
    ]
    verdict = (
        "streamtrain works here."
        if document["healthy"]
        else "streamtrain does not work here as it should: see the lines that say FAILED."
    )
    return "\n\n".join(
        (
            table([[name, value] for name, value in document["machine"].items()]),
            table(checks),
            verdict,
        )
    )


def machine() -> dict[str, str]:
    """Words for what a run meets here."""
    from streamtrain.base.budget import default_limit_bytes
    from streamtrain.run.directory import environment

    env = environment()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    words = ("python", "system", "cpu", "cores", "byte_order")
    return {
        "streamtrain": str(env.get("streamtrain", "not installed")),
        "python": f"{env['python']}, {env['system']}",
        "cpu": f"{env['cpu']}; {env['cores']} of {os.cpu_count()} cores may be used",
        "memory": (
            f"{format_bytes(memory.total)}, {format_bytes(memory.available)} available; a run takes"
            f" at most {format_bytes(default_limit_bytes())} unless --memory says otherwise"
        ),
        "disk": f"{format_bytes(disk.free)} free here ({Path.cwd()})",
        "open files": f"at most {soft:,}",
        "threads": (
            ", ".join(
                f"{name}={os.environ[name]}"
                for name in sorted(os.environ)
                if name.endswith("_NUM_THREADS")
            )
            or "no limit set"
        ),
        "gpu": gpu(),
        "cluster": (
            "dask.distributed is installed"
            if importlib.util.find_spec("distributed")
            else "dask.distributed is not installed (one machine needs none)"
        ),
        "libraries": ", ".join(
            f"{name} {version}"
            for name, version in env.items()
            if name not in (*words, "streamtrain")
        ),
    }


def gpu() -> str:
    """The GPUs that the driver shows, and whether this torch can use one."""
    seen = "none seen (no nvidia-smi)"
    if program := shutil.which("nvidia-smi"):
        query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        try:
            seen = (
                "; ".join(
                    subprocess.run(
                        query, capture_output=True, text=True, timeout=20, check=True
                    ).stdout.splitlines()
                )
                or "none"
            )
        except (OSError, subprocess.SubprocessError):
            return "nvidia-smi does not answer"
        from streamtrain.stream.torch_stream import open_device

        try:
            open_device("cuda")
            seen += "; --device cuda works"
        except StreamTrainError:
            seen += "; this torch cannot use it: it was built without CUDA, or for another driver"
    return seen


def _disk() -> Finding:
    with tempfile.NamedTemporaryFile(
        dir=Path.cwd() if os.access(Path.cwd(), os.W_OK) else None, prefix=".streamtrain-doctor-"
    ) as file:
        started = time.perf_counter()
        for _ in range(_DISK_BYTES // 2**20):
            file.write(os.urandom(2**20))
        file.flush()
        os.fsync(file.fileno())
        rate = _DISK_BYTES / (time.perf_counter() - started)
        return {
            "check": "disk",
            "ok": True,
            "found": f"writes {format_bytes(rate)}/s to {Path(file.name).parent}",
        }


def _self_checks(seconds: float, *, say: Callable[[str], None]) -> Iterator[Finding]:
    """Generate, stream, train, predict in a temporary folder; one finding each, and none after the
    first failure.
    """
    steps = (
        ("generate", _generate),
        ("stream", _stream),
        ("oracle", _oracle),
        ("train", _train),
        ("predict", _predict),
    )
    with tempfile.TemporaryDirectory(prefix="streamtrain-doctor-") as folder:
        for name, step in steps:
            say(f"checking: {name}")
            try:
                ok, found = step(Path(folder), seconds)
            except Exception as failure:
                ok, found = (
                    False,
                    f"{type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}",
                )
            yield {"check": name, "ok": ok, "found": found}
            if not ok:
                return


def _generate(folder: Path, seconds: float) -> tuple[bool, str]:
    import data_gen

    with _clock() as clock:
        dataset = data_gen.generate(
            folder / "data", kind="linear", rows=_ROWS, noise=0.1, seed=_SEED, span_rows=32_768
        )
    return (
        dataset.integrity == "verified",
        f"{_ROWS:,} rows with checksums, {format_count(_ROWS / clock())} rows/s",
    )


def _stream(folder: Path, seconds: float) -> tuple[bool, str]:
    from streamtrain.stream.torch_stream import open_stream

    receipts = []
    for batch_size in (1000, 4096):
        stream = open_stream(str(folder / "data"), batch_size=batch_size, seed=_SEED)
        stream.warm_up()
        with _clock() as clock:
            delivered = sum(len(y) for _, y in stream)
        receipts.append(stream.receipt())
    exact = receipts[0] == receipts[1] and delivered == receipts[1].count == _ROWS
    found = (
        f"{format_count(_ROWS / clock())} rows/s at minibatch 4,096"
        if exact
        else f"{delivered:,} rows instead of {_ROWS:,}, or other ones"
    )
    return exact, f"each row once an epoch, whatever the minibatch; {found}" if exact else found


def _oracle(folder: Path, seconds: float) -> tuple[bool, str]:
    """The engine's losses against the closed form of SGD on linear data."""
    from streamtrain.bench.oracle_check import check_oracle

    record = check_oracle()
    return record["passed"], record["text"]


def _train(folder: Path, seconds: float) -> tuple[bool, str]:
    from streamtrain import api
    from streamtrain.config import make_config

    config = make_config(
        {
            "data": {"path": str(folder / "data")},
            "model": {"hidden": [16]},
            "order": {"seed": _SEED},
            "train": {"max_time": seconds, "device": "cpu"},
        }
    )
    compiled: list[float] = []
    with _clock() as clock:
        summary = api.run_train(
            config,
            folder / "run",
            on_record=lambda one: (
                compiled.append(one.compile_seconds) if isinstance(one, RunStarted) else None
            ),
        ).summary
    loss, linear = (
        summary["cells"][0]["holdout_loss"]["value"],
        summary["best_linear_loss"]["value"],
    )
    peak, projected = summary["peak_rss_bytes"], summary["projected_bytes"]
    rate = summary["cells"][0]["rows_per_second"]["value"]
    ok = loss is not None and loss < _LEARNED and (not peak or peak <= projected)
    speed = f", {format_count(rate)} rows/s" if rate else ""
    return ok, (
        f"loss {loss:.4f} in {format_seconds(clock() - sum(compiled))}{speed} (best constant 1,"
        f" best linear {linear:.4f}); memory {format_bytes(peak)} of {format_bytes(projected)}"
        " projected"
        if loss is not None
        else "no held-out loss is finite"
    )


def _predict(folder: Path, seconds: float) -> tuple[bool, str]:
    from streamtrain import api

    done = api.predict(folder / "run", str(folder / "data"), folder / "p.parquet")
    loss = api.evaluate(folder / "run", str(folder / "data"))["loss"]
    return (
        done["rows"] == _ROWS and loss < _LEARNED,
        f"{done['rows']:,} predictions from the saved model, loss {loss:.4f}",
    )


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    """Seconds from the start of the block to its end, to be asked after it."""
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended or [time.perf_counter()])[0] - started
    ended.append(time.perf_counter())
