"""What each package brings into a fresh interpreter."""

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted(name for name in sys.argv[2:] if name in sys.modules))
print(sum(name.startswith(sys.argv[1]) for name in sys.modules))
"""


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("segue_server", ["torch", "safetensors"]),
        (
            "segue_client",
            ["torch", "onnx", "onnxruntime", "numpy", "segue_training", "segue_export", "segue_server"],
        ),
        ("segue_export.manifest", ["torch", "onnx", "onnxruntime"]),
        ("segue", ["torch", "numpy"]),
    ],
)
def test_importing_every_module_does_not_bring_what_the_package_must_do_without(
    package: str, unwanted: list[str]
) -> None:
    program = PROGRAM if "." not in package else PROGRAM.replace("package.__path__", "[]")
    done = subprocess.run(
        [sys.executable, "-c", program, package, *unwanted], capture_output=True, text=True, check=True
    )
    brought, count = done.stdout.split("\n")[:2]
    assert brought == ""
    assert int(count) >= 1
