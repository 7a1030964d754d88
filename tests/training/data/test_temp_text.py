import errno
import io
import os
import re
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.temp_text import temp_text
from segue_training.errors import CorpusError
from segue_training.text import decoding


@given(st.lists(st.text("a猫\n\ufeff", max_size=4), max_size=5), st.integers(0, 22), st.integers(1, 5))
def test_a_temp_text_answers_as_the_whole_text(blocks: list[str], position: int, block: int) -> None:
    text = "".join(blocks)
    line_starts = [match.end() for match in re.finditer("\n", text)]
    with patch.object(decoding, "BLOCK", block), temp_text(blocks) as text_file:
        assert text_file.characters == len(text)
        assert "".join(text_file.first(position)) == text[:position]
        assert "".join(text_file.blocks()) == text
        assert text_file.next_line(position) == min((s for s in line_starts if s >= position), default=len(text))


def test_nothing_is_left_in_the_folder_that_the_environment_names(tmp_path: Path) -> None:
    with patch.object(tempfile, "tempdir", str(tmp_path)), temp_text(["text"]) as text_file:
        assert os.fstat(text_file.file.fileno()).st_dev == tmp_path.stat().st_dev
        assert not list(tmp_path.iterdir())


def test_a_full_disk_is_answered_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with (
        pytest.raises(CorpusError, match=r"cannot write the text .*: No space left on device; set TMPDIR to"),
        temp_text(["a"]),
    ):
        pass
