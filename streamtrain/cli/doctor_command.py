"""`streamtrain doctor`: describes this machine and checks that streamtrain works on it."""

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
from typing import TYPE_CHECKING, Annotated, Any

import psutil
from cyclopts import Parameter

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import aligned
from streamtrain.cli.flag_groups import GLOBAL, Output, duration
from streamtrain.cli.terminal import note, plain_warnings, show
from streamtrain.errors import CheckFailed, ConfigError, StreamTrainError, first_line
from streamtrain.records import Record, RunStarted

if TYPE_CHECKING:
    from streamtrain.training.model import Shape

_ROWS, _SEED = 262_144, 1
_DISK_BYTES = 2**26

#: The loss that training must reach: half of a constant's. A 4-16-1 network on a linear target with
#: 1 % noise gets far below it long before the time is over.
_LEARNED = 0.5

#: What `--device auto` is measured with: a minibatch size, and learning rates.
_AUTO_SIZE, _AUTO_REPLICAS = 1024, 5

Finding = dict[str, Any]


def doctor(
    *,
    seconds: Annotated[
        float,
        Parameter(
            group=GLOBAL,
            metavar="T",
            converter=duration,
            n_tokens=1,
            help="how long the self-check trains",
        ),
    ] = 5.0,
    output: Output = Output(),
) -> None:
    """Describe this machine, and train on generated data to check that everything works.

    The output is made to be pasted into an issue. Exit 5: a check failed.
    """
    if seconds <= 0:
        raise ConfigError(
            f"--seconds {seconds:g}: the self-check needs more than 0 seconds. Write it like 5s."
        )
    silent = output.quiet or output.json
    with plain_warnings(quiet=output.quiet):
        facts = machine()
        findings = [_disk(), *_self_checks(seconds, say=(lambda text: None) if silent else note)]
    failures = [finding for finding in findings if not finding["ok"]]
    document = {
        "schema_version": 1,
        "machine": facts,
        "checks": findings,
        "healthy": not failures,
    }
    show(page(document), document, as_json=output.json)
    if failures:
        raise CheckFailed(
            "\n".join(f"{failure['check']}: {failure['found']}" for failure in failures)
        )


def page(document: dict[str, Any]) -> str:
    """Return facts, checks and verdict as plain text, made to be pasted."""
    facts = [[name, value] for name, value in document["machine"].items()]
    checks = [
        ["ok" if finding["ok"] else "FAILED", finding["check"], finding["found"]]
        for finding in document["checks"]
    ]
    if document["healthy"]:
        verdict = "streamtrain works here."
    else:
        verdict = "some checks failed: see the lines that say FAILED."
    return "\n\n".join((aligned(facts), aligned(checks), verdict))


def machine() -> dict[str, str]:
    """Describe the resources that a run has on this machine, by name."""
    from streamtrain.base.budget import default_limit_bytes
    from streamtrain.run.environment import environment

    env = environment()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    max_open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    thread_limits = [
        f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.endswith("_NUM_THREADS")
    ]
    has_distributed = importlib.util.find_spec("distributed") is not None
    not_libraries = ("streamtrain", "python", "system", "cpu", "cores", "byte_order")
    libraries = [f"{name} {version}" for name, version in env.items() if name not in not_libraries]
    return {
        "streamtrain": str(env.get("streamtrain", "not installed")),
        "python": f"{env['python']}, {env['system']}",
        "cpu": f"{env['cpu']}; {env['cores']} of {os.cpu_count()} cores may be used",
        "memory": (
            f"{format_bytes(memory.total)}, {format_bytes(memory.available)} available; a run takes"
            f" at most {format_bytes(default_limit_bytes())} unless --memory says otherwise"
        ),
        "disk": f"{format_bytes(disk.free)} free here ({Path.cwd()})",
        "open files": f"at most {max_open_files:,}",
        "threads": ", ".join(thread_limits) or "no limit set",
        "gpu": gpu(),
        "cluster": (
            "dask.distributed is installed"
            if has_distributed
            else "dask.distributed is not installed (not needed on one machine)"
        ),
        "libraries": ", ".join(libraries),
    }


def gpu() -> str:
    """Describe the GPUs that the driver shows, and whether this torch can use one."""
    program = shutil.which("nvidia-smi")
    if not program:
        return "none found (no nvidia-smi)"
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi does not answer"
    devices = "; ".join(answer.stdout.splitlines()) or "none"
    from streamtrain.stream.torch_stream import open_device

    try:
        open_device("cuda")
    except StreamTrainError:
        return (
            f"{devices}; this torch cannot use it: it was built without CUDA, or for another driver"
        )
    return f"{devices}; {gpu_engines()}"


def gpu_engines() -> str:
    """Say which engine a run on the GPU takes and why, and whether the fused one works there."""
    from streamtrain.config import TrainConfig
    from streamtrain.kernels.cuda_launch import can_launch
    from streamtrain.training.engine_choice import choose_engine
    from streamtrain.training.model import Shape

    shape = Shape(widths=(4, 32, 32, 1), activation="relu")
    engine, reason = choose_engine(TrainConfig(device="cuda"), shape)
    assembler = "Numba" if can_launch() else "torch, since Numba finds no GPU"
    try:
        choose_engine(TrainConfig(device="cuda", engine="fused"), shape)
        fused = "--engine fused --device cuda works"
    except ConfigError as error:
        fused = first_line(error)
    return (
        f"--device cuda takes the {engine} engine: {reason}; minibatches are assembled by"
        f" {assembler}; {fused}; {_auto_device(shape)}"
    )


def _auto_device(shape: "Shape") -> str:
    """Say what `--device auto` takes for a model, measured at one minibatch size."""
    from streamtrain.config import TrainConfig
    from streamtrain.training.device_choice import gpu_candidate, measure_devices

    train = TrainConfig()
    if (candidate := gpu_candidate(train, shape)) is None:
        return "--device auto takes the CPU"
    choice = measure_devices(train, shape, candidate, (_AUTO_SIZE,), _AUTO_REPLICAS)
    return (
        f"--device auto takes the {choice.engine} engine for {_AUTO_REPLICAS} replicas of"
        f" 4-32-32-1 at {_AUTO_SIZE:,} rows: {choice.reason}"
    )


def _disk() -> Finding:
    folder = Path.cwd() if os.access(Path.cwd(), os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".streamtrain-doctor-") as file:
        started = time.perf_counter()
        for _ in range(_DISK_BYTES // 2**20):
            file.write(os.urandom(2**20))
        file.flush()
        os.fsync(file.fileno())
        bytes_per_second = _DISK_BYTES / (time.perf_counter() - started)
        return {
            "check": "disk",
            "ok": True,
            "found": f"writes {format_bytes(bytes_per_second)}/s to {Path(file.name).parent}",
        }


def _self_checks(seconds: float, *, say: Callable[[str], None]) -> Iterator[Finding]:
    """Run the checks in a temporary folder, and yield a finding for each, up to the first failure.

    `say` gets a line before each check.
    """
    checks = (
        ("generate", _generate),
        ("stream", _stream),
        ("oracle", _oracle),
        ("train", _train),
        ("predict", _predict),
    )
    with tempfile.TemporaryDirectory(prefix="streamtrain-doctor-") as folder:
        for name, check in checks:
            say(f"checking: {name}")
            try:
                ok, found = check(Path(folder), seconds)
            except Exception as failure:
                ok, found = False, f"{type(failure).__name__}: {first_line(failure)}"
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
    if receipts[0] != receipts[1] or not delivered == receipts[1].count == _ROWS:
        return False, f"{delivered:,} rows instead of {_ROWS:,}, or other rows"
    speed = f"{format_count(_ROWS / clock())} rows/s at minibatch 4,096"
    return True, f"each row once per epoch, whatever the minibatch size; {speed}"


def _oracle(folder: Path, seconds: float) -> tuple[bool, str]:
    """Compare the engine's losses with the closed form of SGD on linear data."""
    from streamtrain.bench.oracle_check import check_oracle

    record = check_oracle()
    return record["passed"], record["text"]


def _train(folder: Path, seconds: float) -> tuple[bool, str]:
    from streamtrain import api
    from streamtrain.config import make_config
    from streamtrain.run.directory import RunDirectory

    config = make_config(
        {
            "data": {"path": str(folder / "data")},
            "model": {"hidden": [16]},
            "order": {"seed": _SEED},
            "train": {"max_time": seconds, "device": "cpu"},
        }
    )
    compile_seconds = 0.0

    def on_record(record: Record) -> None:
        nonlocal compile_seconds
        if isinstance(record, RunStarted):
            compile_seconds += record.compile_seconds

    with _clock() as clock, RunDirectory(folder / "run", on_record=on_record) as run:
        summary = api.run_train(run, config).summary
    cell = summary["cells"][0]
    loss = cell["holdout_loss"]["value"]
    if loss is None:
        return False, "no held-out loss is finite"
    linear = summary["best_linear_loss"]["value"]
    peak, projected = summary["peak_rss_bytes"], summary["projected_bytes"]
    rows_per_second = cell["rows_per_second"]["value"]
    speed = f", {format_count(rows_per_second)} rows/s" if rows_per_second else ""
    ok = loss < _LEARNED and (not peak or peak <= projected)
    return ok, (
        f"loss {loss:.4f} in {format_seconds(clock() - compile_seconds)}{speed} (best constant 1,"
        f" best linear {linear:.4f}); memory {format_bytes(peak)} of {format_bytes(projected)}"
        " projected"
    )


def _predict(folder: Path, seconds: float) -> tuple[bool, str]:
    from streamtrain.run.predict import evaluate, predict

    counts = predict(folder / "run", str(folder / "data"), folder / "p.parquet")
    loss = evaluate(folder / "run", str(folder / "data"))["loss"]
    ok = counts["rows"] == _ROWS and loss < _LEARNED
    return ok, f"{counts['rows']:,} predictions from the saved model, loss {loss:.4f}"


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds from the start of the block to its end."""
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended or [time.perf_counter()])[0] - started
    ended.append(time.perf_counter())
