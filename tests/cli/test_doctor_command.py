"""`doctor`: facts, checks that run for real, and exit 5 when one fails."""

import json
import subprocess

import pytest

from streamtrain.cli import doctor_command as doctor


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
    assert "FAILED  stream    OSError: no space left\n\nstreamtrain does not" in said.out


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
