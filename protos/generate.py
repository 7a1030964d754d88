"""Generate the Python code of the contract: `python protos/generate.py [OUTPUT_FOLDER]`.

The include root is the import root, so that no import has to be patched afterwards.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
WELL_KNOWN_TYPES = files("grpc_tools") / "_proto"

# Beside this Python, wherever PATH points.
PLUGINS = [
    f"--plugin={name}={Path(sys.executable).with_name(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
]


def generate(output: Path) -> None:
    """Write messages, services and type stubs of every .proto file below `output`."""
    protos = sorted(ROOT.glob("segue/**/*.proto"))
    services = [proto for proto in protos if "\nservice " in proto.read_text()]
    _run(protos, f"--python_out={output}", f"--mypy_out=quiet:{output}")
    _run(services, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}")


def _run(protos: list[Path], *outputs: str) -> None:
    names = [proto.relative_to(ROOT).as_posix() for proto in protos]
    status = protoc.main(["protoc", f"-I{ROOT}", f"-I{WELL_KNOWN_TYPES}", *PLUGINS, *outputs, *names])
    if status:
        sys.exit(f"protoc failed with status {status}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
