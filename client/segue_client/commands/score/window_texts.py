"""The windows of a text that comes in pieces, each with what there is of its characters."""

from collections.abc import Iterator

from segue_client.messages.score import Score
from segue_client.messages.windows import WindowScore


class WindowTexts:
    """Keeps what was read until the window that it stands in is complete."""

    def __init__(self) -> None:
        self._read = Score()
        """Of the characters behind the last window."""

    def add(self, latest: Score) -> Iterator[tuple[WindowScore, Score]]:
        """Yield the windows that are complete, with their scores and texts."""
        read = self._read
        text = read.text + latest.text
        log_probabilities = read.log_probabilities + latest.log_probabilities
        ranks = read.ranks + latest.ranks
        alternatives = read.alternatives + latest.alternatives
        first = scored = 0
        for window in latest.windows:
            end, scored_end = first + window.character_count, scored + window.scored_count
            yield (
                window,
                Score(
                    sum_log_probability=window.sum_log_probability,
                    scored_count=window.scored_count,
                    unknown_count=window.unknown_count,
                    log_probabilities=log_probabilities[scored:scored_end],
                    ranks=ranks[scored:scored_end],
                    alternatives=alternatives[scored:scored_end],
                    text=text[first:end],
                ),
            )
            first, scored = end, scored_end
        self._read = Score(
            log_probabilities=log_probabilities[scored:],
            ranks=ranks[scored:],
            alternatives=alternatives[scored:],
            text=text[first:],
        )
