"""Read the files of a run, which may be damaged or from somebody else: its log and its summary.

Every fault in them is a DataError with the file, the line and the cause.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from streamtrain.base.untrusted import parse_json, read_document, read_regular
from streamtrain.errors import DataError, StreamTrainError, first_line, shown
from streamtrain.records import MAX_LOG_BYTES, Record, parse_record
from streamtrain.records.texts import map_texts
from streamtrain.report.analysis import Summary
from streamtrain.report.summary import analyze
from streamtrain.science.run_log import collect
from streamtrain.types import Json

_MAX_SUMMARY_BYTES = 1 << 28


def read_records(path: Path | str) -> list[Record]:
    """Return the records of an `events.jsonl`; a last line that a crash cut short is ignored.

    Raises DataError for a file that cannot be read, and for any other line that is not a record
    (naming the line).
    """
    return [record for _, record in _numbered(Path(path))]


def _numbered(path: Path) -> list[tuple[int, Record]]:
    """Return the records of a log with the numbers of their lines."""
    place = shown(str(path))
    try:
        lines = read_regular(path, limit_bytes=MAX_LOG_BYTES).split(b"\n")
    except OSError as failure:
        raise DataError(
            f"{place}: cannot be read ({failure.strerror}). Give a run's directory or its"
            " events.jsonl."
        ) from None
    records: list[tuple[int, Record]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
            if not isinstance(values, dict) or "event" not in values:
                raise ValueError("it is not an object with an `event`")
            records.append((number, parse_record(values)))
        except DataError as failure:
            raise DataError(f"{place}: line {number}: {failure}") from None
        except ValueError as failure:
            # a complete line ends with a newline, so the last piece is empty or cut short
            if number < len(lines):
                raise DataError(
                    f"{place}: line {number} is not a record ({first_line(failure)}). The file is"
                    " damaged; run again, or remove the line."
                ) from None
    return records


def read_summary(path: Path) -> Summary:
    """Return what a `summary.json` holds. Raises OSError, and DataError naming file and key."""
    try:
        document = read_document(path, limit_bytes=_MAX_SUMMARY_BYTES)
        with _as_data_error(f"{shown(str(path))}: "):
            return map_texts(Summary.from_json(document), shown, keys=True)
    except DataError as failure:
        place = shown(str(path))
        prefix = "" if str(failure).startswith(place) else f"{place}: "
        raise DataError(f"{prefix}{failure}") from failure.__cause__


def kept_summary(out: Path) -> Json:
    """Return the `summary.json` of a finished run. Raises DataError for a damaged one."""
    return read_summary(out / "summary.json").to_json()


@contextmanager
def naming_damage(*files: Path) -> Iterator[None]:
    """Turn what goes wrong with the numbers in these files into a DataError that names them.

    In a log, it names the first line that makes the records unusable. The types of all fields were
    checked before, so only their values can be at fault here.
    """
    try:
        yield
    except DataError as failure:
        place = _first_damage(files)
        if place is None or str(failure).startswith(tuple(shown(str(file)) for file in files)):
            raise
        raise DataError(f"{place}: {failure}") from None
    except (StreamTrainError, OSError, MemoryError):
        raise
    except Exception as failure:
        place = _first_damage(files) or shown(str(files[0]))
        raise DataError(
            f"{place}: its values do not fit together ({type(failure).__name__}:"
            f" {first_line(failure)}). The file is damaged; if it is as streamtrain wrote it,"
            " report what --debug prints."
        ) from failure


def _first_damage(files: Sequence[Path]) -> str | None:
    """Return the first log that cannot be analysed alone, with the line; None if there is none."""
    for file in files:
        if file.suffix != ".jsonl":
            continue
        place = shown(str(file))
        try:
            numbered = _numbered(file)
        except DataError:
            return place
        records = [record for _, record in numbered]
        if _can_be_analysed(records):
            continue
        good, bad = 0, len(records)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if _can_be_analysed(records[:middle]) else (good, middle)
        return f"{place}: line {numbered[bad - 1][0]}" if records else place
    return None


def _can_be_analysed(records: Sequence[Record]) -> bool:
    with suppress(Exception):
        analyze(collect(records))
        return True
    return False


@contextmanager
def _as_data_error(prefix: str) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as failure:
        if isinstance(failure, StreamTrainError):
            raise
        raise DataError(f"{prefix}{type(failure).__name__}: {first_line(failure)}") from failure
