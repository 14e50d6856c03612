"""Evaluations as TensorBoard scalars: its event files, written without TensorBoard.

A file is a sequence of `length, checksum of the length, event, checksum of the event`. An event is
a protocol buffer of wall time, step and scalars. Sources: TensorFlow's
`core/lib/io/record_writer.cc` (the framing), `core/util/event.proto` and
`core/framework/summary.proto`.
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

from streamtrain.base.atomic_files import open_folder
from streamtrain.records import Emit, Evaluation, Record

#: Field of an evaluation → tag of its scalar.
_SCALARS = {
    "holdout_loss": "loss/held out",
    "train_loss": "loss/training (half of r²)",
    "holdout_rmse": "rmse/held out",
    "seconds": "time/seconds",
}

_LARGEST_FLOAT32 = 3.4028234663852886e38


@contextmanager
def tensorboard(folder: Path) -> Iterator[Emit]:
    """Yield a function that writes each evaluation as scalars at its row.

    There is one event file per replica, in a subfolder of `folder`, which is in a run's. Used from
    one thread. Raises DataError where a folder is a link.
    """
    files: dict[str, BinaryIO] = {}

    def on_record(record: Record) -> None:
        if not isinstance(record, Evaluation):
            return
        replica = f"batch {record.batch_size} lr {record.lr:.4g} trial {record.trial}"
        if replica not in files:
            files[replica] = _open(folder / replica)
        scalars = {
            tag: float(value)
            for name, tag in _SCALARS.items()
            if (value := getattr(record, name)) is not None
        }
        files[replica].write(framed(scalar_event(time.time(), record.rows, scalars)))
        files[replica].flush()  # TensorBoard reads during training

    try:
        yield on_record
    finally:
        for file in files.values():
            file.close()


def _open(folder: Path) -> BinaryIO:
    run = folder.parents[1]
    run.mkdir(parents=True, exist_ok=True)
    descriptor = open_folder(folder, within=run, make=True)
    now = time.time()
    name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.streamtrain"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = open(os.open(name, flags, 0o666, dir_fd=descriptor), "wb")  # noqa: SIM115 - the caller closes it
    finally:
        os.close(descriptor)
    file.write(framed(_double(1, now) + _bytes(3, b"brain.Event:2")))
    return file


def scalar_event(wall_seconds: float, step: int, scalars: dict[str, float]) -> bytes:
    """Encode an event with `scalars`, tag → value.

    Values that are not finite are written as they are, and TensorBoard marks them.
    """
    values = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items()
    )
    return _double(1, wall_seconds) + _varint_field(2, step) + _bytes(5, values)


def framed(event: bytes) -> bytes:
    """Frame an event as a record of the file: length, checksum, event, checksum."""
    length = struct.pack("<Q", len(event))
    return length + _masked(length) + event + _masked(event)


def _masked(data: bytes) -> bytes:
    """Encode the checksum as the file format asks: rotated by 15 bits, plus a constant."""
    checksum = crc32c(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum (RFC 3720, B.4).

    Events are short, so a table lookup per byte is fast enough.

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
    if math.isfinite(value):  # struct refuses finite values beyond the range of float32
        value = max(-_LARGEST_FLOAT32, min(_LARGEST_FLOAT32, value))
    return _varint(number << 3 | 5) + struct.pack("<f", value)
