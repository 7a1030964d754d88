"""Models from a folder, loaded and checked. Takes seconds: for a thread other than the event loop's.

A damaged version keeps neither the other models nor an older version of its own from being served: a restart must not
take down what ran. The log says so, and so do the metrics and the errors of calls that name it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segue_export.artifact import check_inside, find_models, find_versions, read_artifact
from segue_export.errors import ArtifactError
from segue_export.wrong_folder import find_misnamed, why_misnamed

from segue_server.engine.model import Device, Model
from segue_server.engine.runners.settings import DeviceSettings
from segue_server.errors import StartupError, UnfitModel
from segue_server.runtime.device_check import check_device
from segue_server.runtime.measured_rate import calibrate
from segue_server.runtime.registry import Skipped
from segue_server.runtime.self_check import SelfCheck, check

_DEFAULTS: Final = DeviceSettings()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what was measured of it on this host."""

    model: Model
    found: SelfCheck
    rate: float
    """Symbols a second in full batches."""


@dataclass(frozen=True)
class LoadedModels:
    """What a folder holds."""

    models: list[LoadedModel]
    skipped: list[Skipped]
    """Newer than what is loaded, and damaged."""


class Loader:
    """Loads models for a device. `strict`: whether a damaged version ends the start."""

    def __init__(
        self, device: Device, threads: int, settings: DeviceSettings = _DEFAULTS, *, strict: bool = False
    ) -> None:
        self._device = device
        self._threads = threads
        self._settings = settings
        self._strict = strict
        self._skipped: list[Skipped] = []
        self._first: StartupError | None = None

    def load(self, folder: Path) -> LoadedModels:
        """Load and check the newest sound version of every model in `folder`.

        Raises StartupError, which names the bad one: if there is no sound model, or one is damaged and `strict`.
        """
        try:
            homes = find_models(folder)
        except ArtifactError as error:
            raise StartupError(str(error), error.exit_code) from error
        for misnamed in find_misnamed(folder):
            _log.warning("%s", why_misnamed(misnamed))
        models = [model for home in homes if (model := self._newest_sound(home))]
        if self._first and not models:
            raise self._first
        return LoadedModels(models, self._skipped)

    def _newest_sound(self, home: Path) -> LoadedModel | None:
        skipped: list[int] = []
        for version in self._versions(home):
            try:
                loaded = self._load(version)
            except (ArtifactError, UnfitModel) as error:
                self._skip(error)
                skipped.append(int(version.name))
            else:
                _report_skipped(home, skipped, loaded.model.version)
                self._skipped += [Skipped(home.name, number) for number in skipped]
                return loaded
        _report_skipped(home, skipped, None)
        self._skipped += [Skipped(home.name, number) for number in skipped or [0]]
        return None

    def _versions(self, home: Path) -> list[Path]:
        """Return the folders of the versions, newest first."""
        try:
            return find_versions(home)[::-1]
        except ArtifactError as error:
            self._skip(error)
            return []

    def _load(self, version: Path) -> LoadedModel:
        check_inside(version)
        artifact = read_artifact(version)
        model = Model(artifact, self._device, self._threads, self._settings)
        if model.why_not_cuda:
            _log.warning("model %s version %d not on CUDA: %s", model.name, model.version, model.why_not_cuda)
        if model.precision is not None:
            difference = check_device(model, Model(artifact, threads=self._threads))
            _log.info("model %s version %d: within %.1e nats of the CPU", model.name, model.version, difference)
        found = check(model)
        _log.info(
            "model %s version %d on %s%s: results %s on batching; host class %s",
            *(model.name, model.version, model.provider, f" in {model.precision}" if model.precision else ""),
            "do not depend" if found.reproducible else "MAY DEPEND",
            found.host_class.hex(),
        )
        return LoadedModel(model, found, calibrate(model))

    def _skip(self, error: ArtifactError | UnfitModel) -> None:
        self._first = self._first or StartupError(str(error), error.exit_code)
        if self._strict:
            raise self._first from error
        _log.error("%s", error)


def _report_skipped(home: Path, skipped: list[int], served: int | None) -> None:
    """Log what is served instead of the newest version."""
    damaged = " and ".join(f"version {number}" for number in skipped) or "all of it"
    remedy = "mend or remove what is named above, and restart; with --strict the server would not have started"
    if served is None:
        _log.error("model %s IS NOT SERVED: damaged is %s; %s", home.name, damaged, remedy)
    elif skipped:
        _log.error("model %s: OLD VERSION %d IS SERVED, damaged is %s; %s", home.name, served, damaged, remedy)
