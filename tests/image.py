"""The image as its Dockerfile describes it, played without a container engine.

What ENTRYPOINT, CMD, ENV, USER and VOLUME say is done in a mount namespace whose root is read-only and holds nothing
but programs, the models and what is mounted. Where namespaces are not permitted, the same command runs on this root as
this user, and `PLAIN` says what that leaves out.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / folder for folder in ("training", "export", "server", "client", "protos")]

_INSTALLED = "/opt/segue"
"""Where the image has the virtual environment."""
_BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _why_plain() -> str:
    if os.getuid() != 0:
        return "only root can play another user and a read-only root"
    for tool in ("unshare", "setpriv", "chroot", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


PLAIN = _why_plain()
"""Why nothing but the command itself can be played here; empty where everything can."""


@dataclass(frozen=True)
class Image:
    """What a Dockerfile says about the containers of one of its targets."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    health_check: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": _BASE_PATH})
    user: str = "0:0"
    volumes: Sequence[str] = ()
    steps: Sequence[str] = ()
    """What RUN runs in the target's own stages, from the base image on."""

    @classmethod
    def of(cls, dockerfile: Path, target: str) -> Self:
        """Read the stages that lead to `target`."""
        lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
        text = "\n".join(lines).replace("\\\n", " ")
        stages: dict[str, Image] = {}
        name = ""
        for instruction, rest in re.findall(r"^([A-Z]+) +(.*)$", text, re.MULTILINE):
            if instruction == "FROM":
                base, _, name = rest.partition(" AS ")
                stages[name] = stages.get(base, cls())
            elif name:
                stages[name] = stages[name]._with(instruction, rest)
        image = stages[target]
        assert isinstance(image, cls)
        return image

    def _with(self, instruction: str, rest: str) -> "Image":
        changes: dict[str, Any] = {}
        match instruction:
            case "ENTRYPOINT":
                changes = {"entrypoint": json.loads(rest), "command": ()}
            case "CMD":
                changes = {"command": json.loads(rest)}
            case "HEALTHCHECK":
                changes = {"health_check": json.loads(rest.partition("CMD ")[2])}
            case "USER":
                changes = {"user": rest.strip()}
            case "VOLUME":
                changes = {"volumes": [*self.volumes, *rest.split()]}
            case "RUN":
                changes = {"steps": [*self.steps, rest]}
            case "ENV":
                pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
                added = {name: value.replace("$PATH", self.environment["PATH"]) for name, value in pairs.items()}
                changes = {"environment": {**self.environment, **added}}
        return replace(self, **changes)


@dataclass(frozen=True)
class Container:
    """How one container of an image is run: the options of `docker run --read-only --cap-drop all`."""

    image: Image
    root: Path
    """An empty folder: where its root is mounted, which nobody else sees."""
    models: Path
    state: Path | None
    """The volume; None: none is mounted, as where an engine ignores VOLUME."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Mounted read-only, by their place inside."""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """None: the image's own."""

    def run(self, *command: str) -> list[str]:
        """Return what runs `command` inside."""
        command = tuple(map(self._outside, command)) if PLAIN else command
        environment = {**self.image.environment, **self.environment, "PYTHONPATH": ":".join(map(str, SOURCES))}
        if PLAIN:
            environment["PATH"] = f"{sys.prefix}/bin:{environment['PATH']}"
            environment = {name: self._outside(value) for name, value in environment.items()}
        pure = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]
        if PLAIN:
            return ["sh", "-c", f"umask 077 && cd / && exec {shlex.join(pure)}"]
        script = " && ".join(map(shlex.join, self._script(pure)))
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]

    def serve(self, *options: str) -> list[str]:
        """Return what runs the image's own command, `options` appended, on a free port."""
        return self.run(*self.image.entrypoint, *self.image.command, "--port", "0", *options)

    def check_health(self, port: int) -> list[str]:
        """Return what runs the image's own health check, on that port."""
        return self.run(*(re.sub(r":\d+$", f":{port}", word) for word in self.image.health_check))

    def _outside(self, word: str) -> str:
        """Return a path inside as the path here."""
        places = {"/models": self.models, **self.files, **dict.fromkeys(self.image.volumes, self.state)}
        return str(places.get(word) or word)

    def _script(self, command: Sequence[str]) -> Iterator[list[str]]:
        """Build the root, then become the user and run `command` there."""
        yield ["mount", "-t", "tmpfs", "-o", "mode=755", "segue", str(self.root)]
        for place in _programs():
            yield from self._show(place, str(place))
        yield from self._show(Path(sys.prefix), _INSTALLED)
        yield from self._show(self.models, "/models")
        for inside, file in self.files.items():
            yield from self._show(file, inside)
        for step in self.image.steps:
            yield ["chroot", str(self.root), "sh", "-c", step]
        if self.state is not None:
            for volume in self.image.volumes:
                yield from self._mount_volume(self.state, f"{self.root}{volume}")
        yield ["mount", "-o", "remount,ro", str(self.root)]
        yield ["umask", "077"]
        user, _, group = (self.user or self.image.user).partition(":")
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        dropped = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        yield ["exec", "chroot", str(self.root), *become, *dropped, *command]

    def _show(self, path: Path, place: str) -> Iterator[list[str]]:
        """Mount a file or folder read-only, and only it: the folders above it are new, and open to everybody."""
        inside = Path(f"{self.root}{place}")
        if path.is_symlink():
            yield ["ln", "-s", str(path.readlink()), str(inside)]
            return
        yield ["mkdir", "-p", str(inside if path.is_dir() else inside.parent)]
        if path.is_file():
            yield ["touch", str(inside)]
        yield ["mount", "--rbind", "-o", "ro", str(path), str(inside)]

    @staticmethod
    def _mount_volume(volume: Path, inside: str) -> Iterator[list[str]]:
        """As engines do: a new volume takes over owner and mode of what the image has there."""
        if not any(volume.iterdir()):
            yield ["chown", f"--reference={inside}", str(volume)]
            yield ["chmod", f"--reference={inside}", str(volume)]
        yield ["mount", "--bind", str(volume), inside]


def _programs() -> list[Path]:
    """Return what the base image and the installation would hold, outermost first."""
    system = [Path(place) for place in ("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")]
    python = {Path(sys.prefix), Path(sys.base_prefix), *SOURCES}
    inside = {path for path in python if not any(path.is_relative_to(other) for other in system)}
    return [*filter(Path.exists, system), *sorted(inside)]
