"""The models that a server has loaded, found by name and version."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.errors import InvalidRequest, UnknownModel
from segue_server.runtime.backlog import Backlog, nothing_expected
from segue_server.runtime.engine_share import EngineShare
from segue_server.runtime.engine_thread import EngineThread
from segue_server.runtime.owner import NOBODY, Owner


@dataclass(frozen=True)
class Served:
    """A loaded model with the engine thread that runs it."""

    model: Model
    engine_thread: EngineThread
    reproducible: bool
    """Whether results here do not depend on batching; see `self_check`."""
    build: Build
    engine: EngineShare
    """What a call runs its sequences in."""

    @classmethod
    def of(cls, model: Model, engine_thread: EngineThread, build: Build, *, reproducible: bool) -> "Served":
        """Return a model that nobody calls yet."""
        return cls(model, engine_thread, reproducible, build, EngineShare(engine_thread, NOBODY, nothing_expected))

    def shared_by(self, owner: Owner, settle: Callable[[], None]) -> "Served":
        """Return the model for a call of `owner`; see `EngineShare`."""
        return replace(self, engine=EngineShare(self.engine_thread, owner, settle))


_DAMAGED: Final = "damaged and not loaded (the server's log names the file)"


@dataclass(frozen=True)
class Skipped:
    """A version that was found damaged and is not served."""

    name: str
    version: int
    """0: nobody knows, as not even the folder of the model could be read."""


class Registry:
    """A fixed table of models; names in requests are looked up here alone."""

    def __init__(self, served: Sequence[Served], skipped: Sequence[Skipped] = ()) -> None:
        self._served = sorted(served, key=lambda entry: (entry.model.name, entry.model.version))
        self.skipped = tuple(skipped)

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served)

    @property
    def backlogs(self) -> list[Backlog]:
        """What the engines have to do."""
        return [served.engine_thread.backlog for served in self._served]

    def find(self, name: str, version: int) -> Served:
        """Return the model; "": the only one, version 0: the newest. Raises UnknownModel, InvalidRequest."""
        names = sorted({entry.model.name for entry in self._served})
        damaged = {each.name for each in self.skipped}
        if not name and len(damaged.union(names)) > 1:  # the only sound one is not the only one
            raise InvalidRequest(f"model.name is empty, and the server has several: name one of {', '.join(names)}")
        named = [entry for entry in self._served if not name or entry.model.name == name]
        if not named:
            reason = _DAMAGED if name in damaged else "not loaded"
            raise UnknownModel(f"model {name!r:.80} is {reason}; loaded: {', '.join(names)}")
        found = [entry for entry in named if version in (0, entry.model.version)]
        if not found:
            versions = ", ".join(str(entry.model.version) for entry in named)
            reason = _DAMAGED if Skipped(named[0].model.name, version) in self.skipped else "not loaded"
            raise UnknownModel(f"version {version} of model {named[0].model.name!r} is {reason}; loaded: {versions}")
        return found[-1]
