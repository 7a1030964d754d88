"""What is installed, and whether the generated code is that of the protos."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_exactly_the_five_import_names(tmp_path: Path) -> None:
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", *build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("segue-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"segue", "segue_client", "segue_export", "segue_server", "segue_training"}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    assert {"segue/v1/generation.proto", "segue_training/reports/report.html.jinja"} <= set(names)


def pins(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in (ROOT / name).read_text().splitlines())


def test_both_images_run_the_same_versions_and_those_that_the_code_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours, gpu = pins("constraints.txt"), pins("constraints-gpu.txt")
    assert gpu["onnxruntime-gpu"] == ours["onnxruntime"]
    shared = gpu.keys() & ours.keys()
    assert {name: gpu[name] for name in shared} == {name: ours[name] for name in shared}
    assert {name for name in gpu.keys() - ours.keys() if not name.startswith("nvidia-")} == {"onnxruntime-gpu"}
    for requirement in map(Requirement, [*project["dependencies"], *extras["serving"], *extras["server-gpu"]]):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(gpu[requirement.name]), "run: make constraints"


def test_the_generated_code_is_that_of_the_protos(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "protos" / "generate.py"), str(tmp_path)], check=True)
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*")}
    committed = ROOT / "protos"
    kept = {
        path.relative_to(committed): path.read_text()
        for path in committed.rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    assert fresh.keys() == kept.keys()
    stale = [str(name) for name in fresh if fresh[name] != kept[name]]
    assert not stale, "run: make protos"
