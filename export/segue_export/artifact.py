"""The artifact on disk: written by export, read by the server.

    models/<name>/
        config.pbtxt        for NVIDIA Triton (see `triton`)
        <version>/
            model.onnx      the portable graph (see `graphs.portable`), with the manifest in its metadata
            manifest.json   the manifest (see `manifest`) with the SHA-256 of every other file

The portable graph (L layers, B sequences, T characters, H units, V characters in the vocabulary):

    tokens int64 [B, T], h float [L, B, H], c float [L, B, H]
        -> logits float [B, T, V], h_out float [L, B, H], c_out float [L, B, H]

`logits[b, t]` scores the character that follows `tokens[b, t]`. B and T are free; the zero state is all zeros. An
architecture without a memory cell (GRU, RNN) returns c unchanged, so that all have one signature. A version's folder
is written atomically and never changes afterwards.

A folder may come from anywhere, so nothing in it is trusted: it must be inside the folder of models, its files must be
regular, of bounded size and inside the folder, the manifest's numbers are bounded, and the graph must be exactly the
one that the manifest implies (`graphs.portable_check`). What is not of its form or its hash is refused before it is
read into memory.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Final

import msgspec
from segue_training.atomic import sync_folder, write_atomically

from segue_export.errors import ArtifactError, DamagedArtifact, ForeignGraph, ModelsNotFound
from segue_export.graphs.portable_check import check_frame, check_graph, largest_graph
from segue_export.manifest import MANIFEST_FILE, Manifest, Weights
from segue_export.names import check_name, is_legal_name
from segue_export.wrong_folder import why_no_models

MODEL_FILE: Final = "model.onnx"
MAX_MANIFEST_BYTES: Final = 2**21
"""Twice the size of the largest vocabulary, at 12 bytes per character."""


@dataclass(frozen=True)
class Artifact:
    """One version of a model, read and verified."""

    name: str
    version: int
    manifest: Manifest
    graph: bytes
    """The serialized ONNX model."""
    weights: Weights = field(repr=False, compare=False)
    """The graph's weights by torch's names; read-only."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the graph: the model's identity."""
        return self.manifest.files[MODEL_FILE]


def write_artifact(models: Path, name: str, manifest: Manifest, graph: bytes) -> Path:
    """Write `graph` and `manifest` as the next version of `name` and return its folder.

    The files are written and synced in a temporary sibling folder, which is then renamed. Raises InvalidName, or
    ArtifactError if the disk fails or `read_artifact` would refuse the model; no files remain then.
    """
    check_name(name)
    _check_readable(manifest, graph)
    manifest = replace(manifest, files={MODEL_FILE: hashlib.sha256(graph).hexdigest()})
    try:
        return _write_version(models / name, manifest, graph)
    except OSError as error:
        raise ArtifactError(f"cannot write below {models / name}: {error.strerror}; choose another --models") from error


def _check_readable(manifest: Manifest, graph: bytes) -> None:
    try:
        check_graph(graph, Manifest.from_json(manifest.to_json()))
    except (msgspec.MsgspecError, ForeignGraph) as error:
        raise ArtifactError(f"no artifact can hold this model: {error}; train a smaller one") from error


def _write_version(home: Path, manifest: Manifest, graph: bytes) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=home))
    try:
        write_atomically(staging / MODEL_FILE, graph)
        write_atomically(staging / MANIFEST_FILE, manifest.to_json())
        staging.chmod(0o755)
        target = home / str(max(_versions(home), default=0) + 1)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    for folder in (home, home.parent, home.parent.parent):  # any may be new
        sync_folder(folder)
    return target


def read_artifact(folder: Path) -> Artifact:
    """Read and verify `models/<name>/<version>`; DamagedArtifact names the file at fault."""
    manifest = read_manifest(folder)
    try:
        with _opened(folder, MODEL_FILE, largest_graph(manifest)) as file:
            graph = _read_graph(file, manifest, folder / MODEL_FILE)
        weights = check_graph(graph, manifest)
    except ForeignGraph as error:
        raise ForeignGraph(f"{folder / MODEL_FILE} {error}; use only artifacts of segue export") from error
    return Artifact(folder.parent.name, int(folder.name), manifest, graph, weights)


def _read_graph(file: BufferedReader, manifest: Manifest, path: Path) -> bytes:
    """Return what `file`, open at `path`, holds. Raises DamagedArtifact, or ForeignGraph with the reason alone."""
    check_frame(file, manifest)
    file.seek(0)
    if hashlib.file_digest(file, "sha256").hexdigest() == manifest.files.get(MODEL_FILE):
        graph = _content(file)
        if hashlib.sha256(graph).hexdigest() == manifest.files[MODEL_FILE]:  # it may have changed meanwhile
            return graph
    raise DamagedArtifact(f"{path} is not the file in its manifest (SHA-256 differs); export it again")


def find_artifacts(models: Path) -> list[Path]:
    """Return the folders of all versions of all models in `models`, by name, then version.

    Raises ModelsNotFound, or DamagedArtifact if a model cannot be read, or is a link that leads out of `models`.
    """
    found = [version for home in find_models(models) for version in find_versions(home)]
    for folder in found:
        check_inside(folder)
    return found


def find_models(models: Path) -> list[Path]:
    """Return the folders of the models in `models`, by name. Raises ModelsNotFound if there is none."""
    try:
        homes = sorted(path for path in models.iterdir() if path.is_dir() and is_legal_name(path.name))
    except OSError as error:
        raise ModelsNotFound(why_no_models(models, error)) from error
    homes = [home for home in homes if _may_hold_versions(home)]
    if not homes:
        raise ModelsNotFound(why_no_models(models))
    return homes


def find_versions(home: Path) -> list[Path]:
    """Return the folders of the versions of a model, oldest first. Raises DamagedArtifact."""
    try:
        return [home / str(version) for version in sorted(_versions(home))]
    except OSError as error:
        raise DamagedArtifact(f"{home} cannot be read ({error.strerror}); let this user read it") from error


def check_inside(folder: Path) -> None:
    """Raise DamagedArtifact if `models/<name>/<version>` is a link that leads out of `models`."""
    models = folder.parent.parent
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(models)):
        raise DamagedArtifact(f"{folder} is a link to a folder outside {models}; copy the folder there instead")


def _may_hold_versions(home: Path) -> bool:
    try:
        return any(_versions(home))
    except OSError:
        return True  # nobody knows


def _versions(home: Path) -> Iterator[int]:
    return (int(path.name) for path in home.iterdir() if re.fullmatch(r"[1-9][0-9]{0,8}", path.name))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of `models/<name>/<version>`. Raises DamagedArtifact."""
    with _opened(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES) as file:
        document = _content(file)
    try:
        return Manifest.from_json(document)
    except msgspec.MsgspecError as error:
        reason = " ".join(str(error).split())[:200]  # it may quote any content
        raise DamagedArtifact(f"{folder / MANIFEST_FILE}: {reason}; export the model again") from error


@contextmanager
def _opened(folder: Path, name: str, limit: int) -> Iterator[BufferedReader]:
    """Open a regular file of at most `limit` bytes in `folder`; a link must lead to a file in it too."""
    path = folder / name
    try:
        target = os.path.realpath(path, strict=True)
        if not Path(target).is_relative_to(os.path.realpath(folder)):
            raise DamagedArtifact(f"{path} is a link to a file outside its folder; copy the file there instead")
        with open(target, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DamagedArtifact(f"{path} is not a regular file; export the model again")
            if status.st_size > limit:
                raise DamagedArtifact(
                    f"{path} has {status.st_size:,} bytes, more than the {limit:,} of any such model; "
                    "export the model again"
                )
            yield file
    except OSError as error:
        remedy = "let this user read it" if error.errno in {errno.EACCES, errno.EPERM} else "export the model again"
        raise DamagedArtifact(f"{path} cannot be read ({error.strerror}); {remedy}") from error


def _content(file: BufferedReader) -> bytes:
    """Read as much as the file has now: a limit would be allocated."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return file.read(size)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without following links, and without waiting if it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
