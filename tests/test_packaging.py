"""What is installed, and whether the generated code is that of the protos."""

import subprocess
import sys
import zipfile
from pathlib import Path

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
