"""The position of a session, as far as its caller knows."""

from dataclasses import replace

from segue_client.messages.events import FinishReason
from segue_client.messages.generation_request import GenerationKeywords, GenerationOptions, SessionReference
from segue_client.messages.option_names import check_names
from segue_client.messages.score_request import TextOptions
from segue_client.messages.session import SessionState
from segue_client.protocol.generation import ResumableTexts


class SessionCursor:
    """The position of a session, as far as its caller knows. The texts that the caller reads advance it."""

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._texts: ResumableTexts | None = None

    @property
    def state(self) -> SessionState:
        """The last known state."""
        finished = self._texts.finished[0] if self._texts else None
        if finished:
            self._texts = None
            if finished.reason is not FinishReason.DRAINED:
                self.move_to(finished.position)
        return self._state

    def generation_options(self, keywords: GenerationKeywords) -> GenerationOptions:
        """Return the options of one text that continues the session."""
        _check_own(keywords)
        check_names("generate", keywords, GenerationKeywords)
        state = self.state
        options = GenerationOptions(**keywords)
        return replace(options, session=_reference(state), model=state.model, version=state.version)

    def text_options(self, options: TextOptions) -> TextOptions:
        """Return the options of one score that continues the session."""
        _check_own(options)
        check_names("score", options, TextOptions)
        state = self.state
        return {**options, "session": _reference(state), "model": state.model, "version": state.version}

    def track(self, texts: ResumableTexts) -> None:
        """Let `texts` advance the session when they end."""
        self._texts = texts

    def move_to(self, position: int) -> None:
        """Note where a call has left the session."""
        self._state = replace(self._state, position=position)


def _check_own(options: GenerationKeywords | TextOptions) -> None:
    own = [name for name in ("model", "version", "session", "ticket") if name in options]
    if own:
        raise TypeError(f"{own[0]} belongs to the session and cannot be chosen")


def _reference(state: SessionState) -> SessionReference:
    """Name the session at its position, for one call that advances it."""
    return SessionReference(name=state.name, position=state.position)
