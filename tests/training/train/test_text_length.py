import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.encoding import EncodedCorpus, encode_corpus
from segue_training.errors import CorpusError
from segue_training.recipes import TrainingConfig, small
from segue_training.settings import override
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.text_length import check_length


def of_length(symbols: int, validation: int = 9) -> EncodedCorpus:
    ids = np.zeros(symbols, np.uint8)
    return EncodedCorpus("a", "0" * 64, symbols, Vocabulary.from_text("a"), ids, ids, np.zeros(validation, np.uint8))


def refusal(symbols: int, config: TrainingConfig) -> str:
    try:
        check_length(of_length(symbols), config)
    except CorpusError as error:
        return str(error)
    return ""


@given(symbols=st.integers(0, 300), batch=st.integers(1, 40), time=st.integers(1, 40))
def test_the_settings_that_a_short_text_is_offered_suffice(symbols: int, batch: int, time: int) -> None:
    config = replace(small(), batch=batch, time=time)
    message = refusal(symbols, config)
    assert bool(message) == (symbols < config.least_training_symbols)
    if offered := re.findall(r"--set (\S+)", message):
        check_length(of_length(symbols), override(config, offered))
    elif message:
        assert message.endswith(": use a longer text")
        assert symbols < replace(config, batch=1, time=1).least_training_symbols


@pytest.mark.parametrize(
    ("symbols", "batch", "time", "remedy"),
    [(0, 1, 8, "use a longer text"), (12, 1, 8, "--set time=5"), (100, 16, 32, "--set batch=2")],
)
def test_the_setting_that_counts_is_named(symbols: int, batch: int, time: int, remedy: str) -> None:
    with pytest.raises(CorpusError, match=f"{remedy}$"):
        check_length(of_length(symbols), replace(small(), batch=batch, time=time))


def test_a_last_line_of_a_tenth_of_the_text_is_named(tmp_path: Path) -> None:
    lines = "".join(f"{number}\n" for number in range(300))
    (tmp_path / "log").write_text(lines + "x" * len(lines) + "\n")
    config = replace(small(), documents="lines")
    with pytest.raises(CorpusError, match=r"the last line alone is a tenth .*: add lines, or divide"):
        check_length(encode_corpus(str(tmp_path / "log"), config), config)
    (tmp_path / "log").write_text("x" * len(lines) + "\n" + lines)
    check_length(encode_corpus(str(tmp_path / "log"), config), config)


@pytest.mark.parametrize("validation", [0, 1])
def test_no_setting_is_offered_for_a_text_whose_validation_part_is_too_short(validation: int) -> None:
    with pytest.raises(CorpusError, match=r"needs .*: use a longer text$"):
        check_length(of_length(9, validation), replace(small(), batch=4, time=8))
