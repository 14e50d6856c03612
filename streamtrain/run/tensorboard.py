"""Records as TensorBoard scalars: the event file it reads, written without it.

A file is records of `length, its checksum, an Event, its checksum`; an Event is a protocol buffer
of wall time, step and scalars. Sources: TensorFlow's `core/lib/io/record_writer.cc` (the framing)
and `core/util/event.proto`, `core/framework/summary.proto`.
"""

import math
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from streamtrain.records import Emit, Evaluation, Record

#: Key of an evaluation → the tag of its scalar.
_SCALARS = {
    "holdout_loss": "loss/held out",
    "train_loss": "loss/training (half of r²)",
    "holdout_rmse": "rmse/held out",
    "seconds": "time/seconds",
}


@contextmanager
def tensorboard(folder: Path) -> Iterator[Emit]:
    """Yields `on_record`: every evaluation becomes scalars at its row, in an event file a learner
    under `folder`. One thread writes.
    """
    files: dict[str, BinaryIO] = {}

    def on_record(record: Record) -> None:
        if not isinstance(record, Evaluation):
            return
        run = f"batch {record.batch_size} lr {record.lr:.4g} trial {record.trial}"
        if run not in files:
            files[run] = _open(folder / run)
        scalars = {
            tag: float(value)
            for key, tag in _SCALARS.items()
            if (value := getattr(record, key)) is not None
        }
        files[run].write(framed(scalar_event(time.time(), record.rows, scalars)))
        files[run].flush()  # TensorBoard reads while training goes on

    try:
        yield on_record
    finally:
        for file in files.values():
            file.close()


def _open(folder: Path) -> BinaryIO:
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    file = open(  # noqa: SIM115 - the caller closes it
        folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.streamtrain",
        "ab",
    )
    file.write(framed(_double(1, now) + _bytes(3, b"brain.Event:2")))
    return file


def scalar_event(wall_seconds: float, step: int, scalars: dict[str, float]) -> bytes:
    """An Event of `scalars`, tag → value; a value that is not finite stays what it is, and
    TensorBoard marks it.
    """
    values = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items()
    )
    return _double(1, wall_seconds) + _varint_field(2, step) + _bytes(5, values)


def framed(event: bytes) -> bytes:
    """An Event as a record of the file."""
    length = struct.pack("<Q", len(event))
    return length + _masked(length) + event + _masked(event)


def _masked(data: bytes) -> bytes:
    checksum = crc32c(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720, B.4); events are short, so a table a byte is fast enough.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _TABLE[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = tuple(_table_entry(byte) for byte in range(256))


def _varint(value: int) -> bytes:
    parts = []
    while True:
        value, low = value >> 7, value & 0x7F
        parts.append(low | (0x80 if value else 0))
        if not value:
            return bytes(parts)


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    largest = 3.4028234663852886e38  # of a float32: struct refuses what is beyond
    return _varint(number << 3 | 5) + struct.pack(
        "<f", value if not math.isfinite(value) else max(-largest, min(largest, value))
    )
