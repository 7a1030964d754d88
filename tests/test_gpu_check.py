"""The GPU check where there is no GPU: that it runs, and claims nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from segue_server.engine.runners.onnx_session import cuda_is_built_in

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
PARTS = {"starts", "right", "fast", "training"}

without_gpu = pytest.mark.skipif(cuda_is_built_in(), reason="onnxruntime-gpu is installed: run `make gpu-check`")


def run(out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=out.parent)


def findings(out: Path) -> list[dict[str, Any]]:
    found = json.loads((out / "gpu-check.json").read_text())
    assert found["cuda"] is False
    assert "NOTHING about CUDA" in found["note"]
    return list(found["findings"])


@without_gpu
def test_every_part_runs_on_the_cpu_and_says_that_it_shows_nothing_of_cuda(tmp_path: Path) -> None:
    done = run(tmp_path / "out")
    found = findings(tmp_path / "out")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + log
    assert {each["part"] for each in found} == PARTS
    assert not [each for each in found if each["finding"]["what"] in {"ended", "not run"}]
    assert {each["finding"]["passed"] for each in found} == {True, None}
    assert "No GPU was used: this shows that the check runs, and NOTHING about CUDA." in done.stdout
    assert f"0 of {len(found)} findings failed" in done.stdout
    claims = [each["finding"] for each in found if each["check"] == "versions"]
    assert "CPUExecutionProvider" in [claim["value"] for claim in claims]
    assert all(f"=== {name}" in log for name in {each["check"] for each in found})


@without_gpu
def test_a_part_that_fails_is_a_failure_and_keeps_no_other_from_running(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--only", "training speed,versions", "--corpus", str(tmp_path / "missing.txt"))
    found = findings(tmp_path / "out")
    assert done.returncode == 1
    failed = [each for each in found if each["finding"]["passed"] is False]
    assert [(each["check"], each["finding"]["value"]) for each in failed] == [
        ("training speed", "with status 1: see the log")
    ]
    assert "missing.txt" in (tmp_path / "out" / "log.txt").read_text()
    assert len([each for each in found if each["check"] == "versions"]) > 2


@without_gpu
def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--minutes", "0.03", "--only", "training bits,versions,numbers")
    found = {each["check"]: each["finding"] for each in findings(tmp_path / "out")}
    assert done.returncode == 0
    assert set(found) == {"versions", "numbers", "training bits"}
    assert "no time was left" in found["training bits"]["value"]
