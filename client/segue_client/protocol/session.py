"""Where a session stands, as far as its caller knows."""

from dataclasses import replace

from segue_client.messages.events import FinishReason
from segue_client.messages.generation_request import GenerationOptions, SessionReference
from segue_client.messages.score_request import TextOptions
from segue_client.messages.session import SessionState
from segue_client.protocol.generation import ResumableTexts


class SessionCursor:
    """Where a session stands, as far as its caller knows: the texts that the caller has read advance it."""

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._texts: ResumableTexts | None = None

    @property
    def state(self) -> SessionState:
        """The latest that is known."""
        finished = self._texts.finished[0] if self._texts else None
        if finished:
            self._texts = None
            if finished.reason is not FinishReason.DRAINED:
                self.stands_at(finished.position)
        return self._state

    def generation_options(self, options: GenerationOptions) -> GenerationOptions:
        """Return the options of one text that goes on from where the session stands."""
        _check_own(options)
        state = self.state
        return {**options, "session": _standing(state), "model": state.model, "version": state.version}

    def text_options(self, options: TextOptions) -> TextOptions:
        """Return the options of one score that goes on from where the session stands."""
        _check_own(options)
        state = self.state
        return {**options, "session": _standing(state), "model": state.model, "version": state.version}

    def goes_on_with(self, texts: ResumableTexts) -> None:
        """Note a text that advances the session when it ends."""
        self._texts = texts

    def stands_at(self, position: int) -> None:
        """Note where a call has left it."""
        self._state = replace(self._state, position=position)


def _check_own(options: GenerationOptions | TextOptions) -> None:
    own = [name for name in ("model", "version", "session", "ticket") if name in options]
    if own:
        raise TypeError(f"{own[0]} is the session's own and cannot be chosen")


def _standing(state: SessionState) -> SessionReference:
    """Name the session where it stands, for one call that advances it."""
    return SessionReference(name=state.name, position=state.position)
