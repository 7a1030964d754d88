"""What is said of the driver, with drivers made for it: the real one's functions, compiled to answer as told."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

_SOURCE = """
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuGetErrorString(int status, const char **text) {
    *text = status == 100 ? "no CUDA-capable device is detected" : 0;
    return *text ? 0 : 1;
}
"""
_ASK = "import sys; from segue_server.engine.runners.cuda_driver import why_no_gpu; print(why_no_gpu(int(sys.argv[1])))"

Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Return a function that asks a driver which answers so, for CUDA 13."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a driver")
    (tmp_path / "driver.c").write_text(_SOURCE)

    def asked(*, version: int = 13000, init: int = 0, count: int = 1, needed: int = 13) -> str:
        answers = [f"-DVERSION={version}", f"-DINIT={init}", f"-DCOUNT={count}"]
        library = ["-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"]
        subprocess.run([compiler, *answers, *library], cwd=tmp_path, check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
        command = [sys.executable, "-c", _ASK, str(needed)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    return asked


def test_a_driver_that_is_missing_is_named_and_so_is_what_a_container_needs() -> None:
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("an NVIDIA driver is installed")
    said = subprocess.run([sys.executable, "-c", _ASK, "13"], capture_output=True, text=True, check=True).stdout
    assert "no NVIDIA driver here (libcuda.so.1: cannot open" in said
    assert "--gpus all" in said


def test_a_driver_with_a_gpu_is_no_reason(ask: Ask) -> None:
    assert not ask()
    assert not ask(version=14020), "a driver runs programs for older versions"
    assert not ask(version=13000, needed=12)


def test_an_older_driver_is_told_from_a_missing_gpu(ask: Ask) -> None:
    said = ask(version=12080, init=100)
    assert "is for CUDA 12.8, and onnxruntime needs CUDA 13" in said
    assert "580 or newer" in said
    assert "one for CUDA 99" in ask(needed=99)


def test_what_the_driver_says_is_repeated(ask: Ask) -> None:
    assert "no CUDA-capable device is detected (CUDA error 100)" in ask(init=100)
    assert "unknown error (CUDA error 802)" in ask(init=802)
    assert "finds no GPU" in ask(count=0)
