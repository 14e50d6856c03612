"""`doctor`: facts, checks that run for real, and exit 5 when one fails."""

import json
import subprocess
from types import SimpleNamespace

import pytest
import torch

from streamtrain.cli import doctor_command as doctor
from streamtrain.kernels import cuda_launch
from streamtrain.stream import torch_stream
from streamtrain.training import cuda_fit, device_choice
from streamtrain.training.device_choice import DeviceChoice
from streamtrain.training.torch import device_feed


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(doctor, "_ROWS", 65_536)
    monkeypatch.setattr(doctor, "_DISK_BYTES", 2**20)


def test_a_healthy_machine_passes_every_check(command):
    said = command("doctor", "--seconds", "0.3s", "--json")
    document = json.loads(said.out)
    assert said.code == 0
    assert document["healthy"]
    assert [finding["check"] for finding in document["checks"]] == [
        "disk",
        "generate",
        "stream",
        "oracle",
        "train",
        "predict",
    ]
    assert {"cpu", "memory", "disk", "gpu", "libraries", "python"} <= set(document["machine"])
    page = doctor.page(document)
    assert "streamtrain works here." in page
    assert "FAILED" not in page
    assert "65,536 predictions" in page


def test_a_failed_check_is_exit_5_and_the_last_one(command, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(doctor, "_stream", fail)
    said = command("doctor", "--seconds", "0.1")
    assert said.code == 5
    assert said.err.endswith("error: stream: OSError: no space left\n")
    assert "FAILED  stream" in said.out
    assert "FAILED  stream    OSError: no space left\n\nsome checks failed" in said.out


def test_a_model_that_learned_nothing_is_found(command, monkeypatch):
    monkeypatch.setattr(doctor, "_LEARNED", 1e-9)
    said = command("doctor", "--seconds", "0.1", "-q")
    assert said.code == 5
    assert "FAILED  train" in said.out


def test_a_driver_that_does_not_answer_is_said(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/bin/nvidia-smi")

    def hang(*_, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    assert doctor.gpu() == "nvidia-smi does not answer"


@pytest.mark.parametrize(
    ("numba", "says"),
    [
        pytest.param(True, "assembled by Numba; --engine fused --device cuda works", id="numba"),
        pytest.param(
            False,
            "assembled by torch, since Numba finds no GPU; --engine fused on cuda: Numba finds",
            id="torch",
        ),
    ],
)
def test_a_gpu_is_shown_with_its_memory_and_the_engine_that_would_be_taken(
    monkeypatch, numba, says
):
    smi = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06\n"
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_a, **_k: SimpleNamespace(stdout=smi))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_stream, "open_device", torch.device)
    monkeypatch.setattr(device_feed, "open_device", torch.device)
    monkeypatch.setattr(cuda_launch, "can_launch", lambda: numba)
    monkeypatch.setattr(cuda_fit, "can_launch", lambda: numba)
    monkeypatch.setattr(cuda_fit, "shared_bytes", lambda _device: 227 * 1024)
    choice = DeviceChoice(engine="fused-cuda", reason="20M on cuda, 10M on the CPU")
    monkeypatch.setattr(device_choice, "measure_devices", lambda *_: choice)
    text = doctor.gpu()
    assert text.endswith(
        "--device auto takes the fused-cuda engine for 5 replicas of 4-32-32-1 at 1,024 rows: 20M"
        " on cuda, 10M on the CPU"
    )
    assert text.startswith(smi.strip())
    assert "--device cuda takes the torch engine: the default on cuda" in text
    assert says in text
