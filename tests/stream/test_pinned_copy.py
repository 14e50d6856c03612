"""Copies to a device through two pinned buffers, with a CPU that is taken for a GPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamtrain.stream import pinned_copy
from streamtrain.stream.pinned_copy import to_device

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch):
    """Pinned memory, events and streams without a GPU; returns what was called, in order."""
    done, empty, made = list[str](), torch.empty, list[int]()

    def event():
        name = f"buffer {len(made)}"
        made.append(1)
        return SimpleNamespace(
            synchronize=lambda: done.append(f"wait {name}"),
            record=lambda _stream: done.append(f"copied {name}"),
        )

    def pinned(*size, pin_memory=False, **options):
        if pin_memory:
            done.append(f"pin {tuple(size[0])}")
        return empty(*size, **options).fill_(torch.nan)

    monkeypatch.setattr(pinned_copy, "_is_gpu", lambda _device: True)
    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)
    return done


@pytest.mark.parametrize("rows", [1, 3, 6, 10])
def test_every_value_arrives_and_a_buffer_is_filled_when_its_copy_has_ended(
    calls, monkeypatch, rows
):
    monkeypatch.setattr(pinned_copy, "PIECE_BYTES", 3 * 5 * 4)
    array = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)
    found = to_device(array, CPU)
    assert found.numpy().tobytes() == array.tobytes()
    assert found.data_ptr() != array.ctypes.data
    pieces = -(-rows // 3)
    assert calls == [
        f"pin {(2, min(rows, 3), 5)}",
        *(f"{verb} buffer {piece % 2}" for piece in range(pieces) for verb in ("wait", "copied")),
    ]


def test_the_array_may_change_at_once(calls):
    array = np.ones((4, 2), dtype=np.float64)
    found = to_device(array, CPU)
    array[:] = 0
    assert (found == 1).all()
    assert found.dtype == torch.float64


def test_nothing_is_pinned_for_no_rows(calls):
    assert to_device(np.empty((0, 5), dtype=np.float32), CPU).shape == (0, 5)
    assert calls == []


def test_on_the_cpu_memory_is_shared():
    array = np.ones((4, 2), dtype=np.float32)
    assert to_device(array, CPU).data_ptr() == array.ctypes.data


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_every_value_arrives():
    array = np.random.default_rng(0).standard_normal((1_500_000, 5)).astype(np.float32)
    expected = array.copy()
    found = to_device(array, torch.device("cuda"))
    array[:] = 0
    assert found.cpu().numpy().tobytes() == expected.tobytes()
