"""What to do about a folder that holds no models: people name the folder above it, below it, or a checkpoint."""

import os
import shlex
from pathlib import Path
from typing import Final

from segue_export.manifest import MANIFEST_FILE
from segue_export.names import is_legal_name, legal_name

_CHECKPOINT: Final = "checkpoint.json"
_MOST_LOOKED_AT: Final = 100
"""Entries of a folder: anything may have been named."""


def why_no_models(folder: Path, error: OSError | None = None) -> str:
    """Return one line: why `folder` holds no models (`error`: it cannot even be listed), and the command that helps."""
    if root := _root_above(folder):
        return f"{folder} is inside a folder of models; name that: segue serve {_quoted(root)}"
    if folder.is_file():
        return f"{folder} is a file; name a folder of models, and {_write_in(Path('models'))}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{folder} is not a folder; {_write_in(folder)}"
    if error is not None:
        return f"{folder} cannot be read ({error.strerror}); let this user read it"
    return _what_is_inside(folder) or f"{folder} holds no model (<name>/<version>/); {_write_in(folder)}"


def _root_above(folder: Path) -> Path | None:
    whole = folder if folder.name not in {"", ".."} else Path(os.path.abspath(folder))  # noqa: PTH100 - no links
    return next((above.parent for above in (whole, *list(whole.parents)[:3]) if _is_home(above)), None)


def _what_is_inside(folder: Path) -> str | None:
    if (folder / _CHECKPOINT).is_file():
        return f"{folder} is a checkpoint; {_export(folder)}"
    for below in _entries(folder):
        if (below / _CHECKPOINT).is_file():
            return f"{folder} holds checkpoints; {_export(below)}"
        if _is_home(below):
            return why_misnamed(below)
        if any(map(_is_home, _entries(below))):
            return f"{folder} holds a folder of models; name that: segue serve {_quoted(below)}"
    return None


def find_misnamed(models: Path) -> list[Path]:
    """Return the folders that would be models if their names were legal. Hidden ones are meant to be none."""
    folders = [each for each in _entries(models) if not each.name.startswith(".") and not is_legal_name(each.name)]
    return [each for each in folders if _is_home(each)]


def why_misnamed(folder: Path) -> str:
    """Return one line: why such a folder is no model, and the command that helps."""
    name = legal_name(folder.name) or "model"
    return (
        f"{folder} is not served: a model's name is of a-z, 0-9, '.', '_', '-'; "
        f"rename it: mv {_quoted(folder)} {_quoted(folder.with_name(name))}"
    )


def _is_home(folder: Path) -> bool:
    """Return whether `folder` is one of a model: it holds versions."""
    return any(each.name.isdecimal() and (each / MANIFEST_FILE).is_file() for each in _entries(folder))


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry, _ in zip(entries, range(_MOST_LOOKED_AT), strict=False))
    except OSError:
        return []


def _export(checkpoint: Path) -> str:
    return f"export it: segue export {_quoted(checkpoint)} --models models; and then: segue serve models"


def _write_in(models: Path) -> str:
    return f"write a model there with: segue export CHECKPOINT --models {_quoted(models)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
