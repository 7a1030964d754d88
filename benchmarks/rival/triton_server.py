"""Rival (c): NVIDIA Triton with sequence batching and the Python backend on the same graph, without a container.

    cd benchmarks && python -m rival.triton_server FOLDER [--python /usr/bin/python3.11]

sets it up in FOLDER (about 0.5 GB): a virtual environment with the package `nvidia-pytriton`, which holds Triton's
server and its Python backend. The interpreter must be a distribution's own Python 3.11, with its `venv`: Triton's stub
is linked against the shared library of such a one. `python benchmarks/rivals.py --triton FOLDER` then measures it.

The backend is the Python one because the package holds no other; `triton_model.py` is what it runs.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from harness.served import Server, stop
from harness.tables import parser

PACKAGE: Final = "nvidia-pytriton==0.7.0"
MODEL: Final = "benchmark"
START_SECONDS: Final = 60.0
_HERE: Final = Path(__file__).parent

CONFIGURATION: Final = """
backend: "python"
max_batch_size: 1024
input [ { name: "TOKEN" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "NEXT" data_type: TYPE_INT64 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  oldest { max_candidate_sequences: 1024 }
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
}
"""


@dataclass(frozen=True)
class Installation:
    """A folder that `install` has filled."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter of its virtual environment."""
        return self.folder / "environment" / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where the packages lie."""
        return self.folder / "environment" / "lib" / "python3.11" / "site-packages"

    @property
    def triton(self) -> Path:
        """The server, its libraries and its backends."""
        return self.packages / "pytriton" / "tritonserver"

    @property
    def backends(self) -> Path:
        """A folder with the Python backend alone and the stub for Python 3.11."""
        return self.folder / "backends"

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return (self.backends / "python" / "triton_python_backend_stub").is_file()

    @property
    def load_generator(self) -> list[str]:
        """Return the command of the load generator, which needs Triton's messages."""
        return ["env", f"PYTHONPATH={_HERE.parent}", str(self.python), str(_HERE / "triton_client.py")]


def install(folder: Path, python: Path) -> Installation:
    """Make a virtual environment with Triton, and the folder of its Python backend."""
    from importlib.metadata import version

    made = Installation(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The same ONNX Runtime for all that is compared.
    packages = [PACKAGE, f"onnxruntime=={version('onnxruntime')}", "tritonclient[grpc]"]
    subprocess.run([python, "-m", "venv", folder / "environment"], check=True)  # noqa: S603
    subprocess.run([made.python, "-m", "pip", "install", "--quiet", *packages], check=True)  # noqa: S603
    backend = made.backends / "python"
    shutil.copytree(made.triton / "backends" / "python", backend, dirs_exist_ok=True)
    stub = "triton_python_backend_stub"
    shutil.copy2(made.triton / "python_backend_stubs" / "3.11" / stub, backend / stub)
    return made


@contextmanager
def triton_server(installation: Installation, graph: Path) -> Iterator[Server]:
    """Serve `graph` by Triton on free ports."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        repository = Path(folder)
        _fill(repository, graph)
        ports = [_free_port() for _ in range(2)]
        process = subprocess.Popen(  # noqa: S603
            [
                installation.triton / "bin" / "tritonserver",
                f"--model-repository={repository}",
                f"--backend-directory={installation.backends}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={ports[0]}",
                "--http-address=127.0.0.1",
                f"--http-port={ports[1]}",
                "--allow-metrics=false",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(installation),
            text=True,
        )
        try:
            server = Server(f"127.0.0.1:{ports[0]}", process.pid)
            if not _becomes_ready(process, server.address):
                log.seek(0)
                raise SystemExit(f"Triton did not start:\n{log.read()[-3000:]}")
            yield server
        finally:
            stop(process)


def _fill(repository: Path, graph: Path) -> None:
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(f'name: "{MODEL}"\n{CONFIGURATION}')
    shutil.copy2(_HERE / "triton_model.py", version / "model.py")
    shutil.copy2(graph, version / "model.onnx")


def _environment(installation: Installation) -> dict[str, str]:
    libraries = installation.packages / "nvidia_pytriton.libs"
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(installation.packages)}


def _becomes_ready(process: "subprocess.Popen[str]", address: str) -> bool:
    """Wait until the model is ready; False where the process ends or takes too long."""
    ends = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        # A ModelReadyRequest with its field 1, the name; the answer's only field is true: 08 01.
        ready: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        request = b"\x0a" + bytes([len(MODEL)]) + MODEL.encode()
        while process.poll() is None and time.monotonic() < ends:
            with suppress(grpc.RpcError):
                if ready(request, timeout=2) == b"\x08\x01":
                    return True
            time.sleep(0.2)
    return False


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def main() -> None:
    """Set it up."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--python", type=Path, default=Path("/usr/bin/python3.11"))
    arguments = options.parse_args()
    installation = install(arguments.folder.resolve(), arguments.python)
    sys.exit(0 if installation.complete else "the package lacks the stub for Python 3.11")


if __name__ == "__main__":
    main()
