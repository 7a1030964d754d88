"""Models from a folder, loaded and checked. Takes seconds: for a thread other than the event loop's."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segue_export.artifact import find_artifacts, read_artifact
from segue_export.errors import ArtifactError

from segue_server.engine.model import Device, Model
from segue_server.errors import StartupError
from segue_server.runtime.measured_rate import calibrate
from segue_server.runtime.self_check import SelfCheck, check

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what was measured of it on this host."""

    model: Model
    found: SelfCheck
    rate: float
    """Symbols a second in full batches."""


def load_models(folder: Path, device: Device, threads: int) -> list[LoadedModel]:
    """Load and check the newest version of every model in `folder`; raises StartupError, which names the bad one."""
    try:
        newest = {version.parent: version for version in find_artifacts(folder)}
        artifacts = [read_artifact(version) for version in newest.values()]
    except ArtifactError as error:
        raise StartupError(str(error), error.exit_code) from error
    return list(_checked([Model(artifact, device, threads) for artifact in artifacts]))


def _checked(models: list[Model]) -> Iterator[LoadedModel]:
    for model in models:
        found = check(model)
        _log.info(
            "model %s version %d on %s: results %s on batching; host class %s",
            *(model.name, model.version, model.provider, "do not depend" if found.reproducible else "MAY DEPEND"),
            found.host_class.hex(),
        )
        yield LoadedModel(model, found, calibrate(model))
