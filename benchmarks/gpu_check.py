"""Everything that a GPU must show, in one run: does it start, is it right, how fast is it, how fast does it train.

    python benchmarks/gpu_check.py [--minutes 6] [--device auto] [--out gpu-check] [--only starts,right]

Prints one table, and writes it as JSON, with a log, to the folder `--out`. The most important checks come first, each
in a process of its own: one that fails or takes too long does not keep the others from running, and it can be stopped
at any time. Without a GPU the same checks run on the CPU in small sizes: that shows that they run, and nothing of CUDA.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Final

from gpu import fast, right, served, starts, training
from gpu.finding import Finding
from gpu.scale import FULL, SMALL, Scale
from harness.machine import hardware
from rich.console import Console
from rich.table import Table
from segue_server.engine.runners.onnx_session import cuda_is_built_in

Check = Callable[[Scale], Iterator[Finding]]

CHECKS: Final[dict[str, tuple[str, Check]]] = {
    "versions": ("starts", starts.versions),
    "memory": ("starts", starts.memory),
    "placement": ("starts", starts.placement),
    "numbers": ("right", right.numbers),
    "alone and together": ("right", right.alone_and_together),
    "start-up check": ("right", right.start_up_check),
    "across devices": ("right", right.across_devices),
    "tickets": ("right", served.tickets),
    "ceilings": ("fast", fast.ceilings),
    "steps": ("fast", fast.steps),
    "engine": ("fast", fast.engine),
    "served": ("fast", served.speed),
    "LSTM operator": ("fast", fast.lstm_operator),
    "cuDNN": ("fast", fast.cudnn),
    "training speed": ("training", training.speed),
    "training bits": ("training", training.agreement),
    "training quality": ("training", training.quality),
}
"""By name: the part that each belongs to, and what runs it; the most important first."""

NOTHING_SHOWN: Final = "No GPU was used: this shows that the check runs, and NOTHING about CUDA."


@dataclass(frozen=True)
class Entry:
    """A line of the table."""

    part: str
    check: str
    finding: Finding


def run_check(name: str, scale: Scale, log: IO[str], seconds: float) -> Iterator[Finding]:
    """Run one check in a process of its own for at most `seconds`; yield what it finds, and why it ended early."""
    command = [sys.executable, __file__, "--child", name, "--device", scale.device]
    command += ["--corpus", scale.corpus, "--minutes", str(seconds / 60)]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as process:  # noqa: S603
        timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield Finding.from_json(line)
            status = process.wait()
        finally:
            timer.cancel()
            _end(process)
    if status == 0:
        return
    if status == -signal.SIGKILL and time.monotonic() - began >= seconds:
        yield Finding("ended", f"after {seconds:.0f} s: no time was left", passed=None)
    else:
        yield Finding("ended", f"with status {status}: see the log", passed=False)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def run_all(scale: Scale, chosen: list[str], minutes: float, out: Path) -> list[Entry]:
    """Run the chosen checks in order, as far as the time goes; print each line, and write all after each check."""
    end, entries = time.monotonic() + 60 * minutes, list[Entry]()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("w") as log:
        for name in chosen:
            left = end - time.monotonic()
            part = CHECKS[name][0]
            if left < 1:
                entries.append(Entry(part, name, Finding("not run", "no time was left")))
                _write(entries, scale, out)
                continue
            print(f"=== {name}", file=log, flush=True)
            for finding in run_check(name, scale, log, left):
                entries.append(Entry(part, name, finding))
                print(f"{name}: {finding.what}: {finding.shown} {finding.note} {_verdict(finding)}", flush=True)
            _write(entries, scale, out)
    return entries


def _write(entries: list[Entry], scale: Scale, out: Path) -> None:
    found = {
        "hardware": hardware(),
        "cuda": scale.on_gpu,
        "note": "" if scale.on_gpu else NOTHING_SHOWN,
        "findings": [asdict(entry) for entry in entries],
    }
    (out / "gpu-check.json").write_text(json.dumps(found, indent=1) + "\n")


def _verdict(finding: Finding) -> str:
    return {None: "", True: "ok", False: "FAILED"}[finding.passed]


def show(entries: list[Entry]) -> None:
    """Print the table."""
    table = Table(title="GPU check", title_justify="left", caption=hardware(), caption_justify="left")
    for column in ("part", "check", "what", "found", "", "note"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        finding = entry.finding
        table.add_row(entry.part, entry.check, finding.what, finding.shown, _verdict(finding), finding.note)
    Console(width=None if sys.stdout.isatty() else 220).print(table)


def main() -> int:
    """Run the checks; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="for all checks together")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the results")
    parser.add_argument("--only", default="", help="parts or checks, separated by commas")
    parser.add_argument("--corpus", default="pydoc", help="the text that is trained on")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda" or (arguments.device == "auto" and cuda_is_built_in())
    scale = replace(FULL if on_gpu else SMALL, corpus=arguments.corpus, seconds_left=60 * arguments.minutes)
    if arguments.child:
        for finding in CHECKS[arguments.child][1](scale):
            print(finding.to_json(), flush=True)
        return 0
    only = [word.strip() for word in arguments.only.split(",") if word.strip()]
    chosen = [name for name, (part, _) in CHECKS.items() if not only or name in only or part in only]
    entries = run_all(scale, chosen, arguments.minutes, arguments.out)
    show(entries)
    if not scale.on_gpu:
        print(NOTHING_SHOWN)
    failed = [entry for entry in entries if entry.finding.passed is False]
    print(f"{len(failed)} of {len(entries)} findings failed; {arguments.out / 'gpu-check.json'} has them all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
