"""Read the output of a run without measured times, so that equal runs compare as equal."""

import json
from pathlib import Path

#: Fields with times, with the memory of the machine, with the command or with the run's own folder.
_TIMES = frozenset(
    {
        "seconds",
        "fill_seconds",
        "training_seconds",
        "compile_seconds",
        "engine_rates",
        "wait_seconds",
        "stats",
        "peak_rss_bytes",
        "command",
        "config",
        "folder",
        "memory",
        "projected_bytes",
    }
)


def timeless_records(out: Path) -> list[dict]:
    """Return the records of `events.jsonl` as JSON, without those that only measure time."""
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [
        {name: _without_times(value) for name, value in record.items() if name not in _TIMES}
        for record in records
        if record["event"] not in ("timing", "delivery", "confirmation", "measuring")
    ]


def _without_times(value: object) -> object:
    """Return a value of a record without what an opened data set took."""
    if isinstance(value, dict):
        return {
            name: one
            for name, one in value.items()
            if name not in ("reserved_seconds", "before_seconds")
        }
    return value


def weights(out: Path) -> dict[str, bytes]:
    """Return the bytes of every model file by its path in the run's folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("model.*"))}


def left_over(out: Path) -> list[str]:
    """Return the paths of temporary files."""
    return [
        str(path)
        for path in out.rglob("*")
        if path.name.endswith(".tmp") or path.name.startswith(".")
    ]
