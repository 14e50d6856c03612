"""The event file, read by a reader written here and, where it is installed, by TensorBoard."""

import math
import struct

import pytest

from streamtrain.records import parse_record
from streamtrain.run.tensorboard import crc32c, tensorboard

EVALUATIONS = [
    {
        "event": "evaluation",
        "batch_size": 64,
        "lr": 0.004,
        "trial": 0,
        "rows": rows,
        "holdout_loss": loss,
        "train_loss": 0.5,
        "holdout_rmse": None,
        "seconds": 1.5,
    }
    for rows, loss in ((0, 1.0), (1024, 0.25), (2**40, 1e300))
]


@pytest.fixture
def file(tmp_path):
    with tensorboard(tmp_path / "tb") as on_record:
        for record in map(parse_record, [{"event": "run"}, *EVALUATIONS, {"event": "pass"}]):
            on_record(record)
    [path] = (tmp_path / "tb").rglob("*tfevents*")
    return path


def unmask(stored):
    value = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (value >> 17 | value << 15) & 0xFFFFFFFF


def fields(data):
    """Yield (number, value) of every field of a protocol buffer; bytes stay bytes."""
    offset = 0

    def varint():
        nonlocal offset
        value, shift = 0, 0
        while True:
            byte = data[offset]
            value |= (byte & 0x7F) << shift
            offset += 1
            shift += 7
            if not byte & 0x80:
                return value

    while offset < len(data):
        tag = varint()
        match tag & 7:
            case 0:
                yield tag >> 3, varint()
            case 1:
                yield tag >> 3, struct.unpack("<d", data[offset : offset + 8])[0]
                offset += 8
            case 5:
                yield tag >> 3, struct.unpack("<f", data[offset : offset + 4])[0]
                offset += 4
            case 2:
                length = varint()
                yield tag >> 3, data[offset : offset + length]
                offset += length


def test_every_record_is_framed_checksummed_and_says_what_it_was_told(file):
    data, events = file.read_bytes(), []
    while data:
        (length,), (of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        event, (of_event,) = (
            data[12 : 12 + length],
            struct.unpack("<I", data[12 + length : 16 + length]),
        )
        assert (unmask(of_length), unmask(of_event)) == (crc32c(data[:8]), crc32c(event))
        events.append(dict(fields(event)))
        data = data[16 + length :]
    assert events[0][3] == b"brain.Event:2"
    assert [event[2] for event in events[1:]] == [0, 1024, 2**40]
    for event, record in zip(events[1:], EVALUATIONS, strict=True):
        scalars = {
            dict(fields(value))[1].decode(): dict(fields(value))[2] for _, value in fields(event[5])
        }
        assert set(scalars) == {"loss/held out", "loss/training (half of r²)", "time/seconds"}
        assert scalars["loss/held out"] == pytest.approx(
            min(record["holdout_loss"], 3.4028234663852886e38)
        )
        assert math.isfinite(scalars["loss/held out"])


def test_tensorboard_itself_reads_it(file):
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader",
        reason="tensorboard is not installed",
    )
    events = list(loader.EventFileLoader(str(file)).Load())
    assert [event.step for event in events[1:]] == [0, 1024, 2**40]
