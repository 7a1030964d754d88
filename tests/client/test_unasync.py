"""Whether the synchronous client is the one that the asynchronous client makes."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "client" / "unasync.py"


def test_the_synchronous_client_is_up_to_date() -> None:
    check = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, f"{check.stderr}\nrun: make sync"
