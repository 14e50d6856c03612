"""What a run leaves behind, less what a clock says: two runs that are alike give the same."""

import json
from pathlib import Path

#: Fields that hold seconds, or what a machine's memory had to say.
_TIMES = frozenset(
    {
        "seconds",
        "fill_seconds",
        "training_seconds",
        "compile_seconds",
        "wait_seconds",
        "stats",
        "peak_rss_bytes",
        "command",
        "config",
        "memory",
        "projected_bytes",
    }
)


def told(out: Path) -> list[dict]:
    """The records of `events.jsonl`, but those that only measure time."""
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    kept = [
        record
        for record in records
        if record["event"] not in ("timing", "delivery", "confirmation", "measuring")
    ]
    return [
        {name: value for name, value in record.items() if name not in _TIMES} for record in kept
    ]


def weights(out: Path) -> dict[str, bytes]:
    """The bytes of every model."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("model.*"))}


def left_over(out: Path) -> list[str]:
    """Names of temporary files."""
    return [
        str(path)
        for path in out.rglob("*")
        if path.name.endswith(".tmp") or path.name.startswith(".")
    ]
