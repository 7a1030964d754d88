import os
import subprocess

from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.file_names import name_to_text, shell_word, shown, text_to_name

names = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name).map(os.fsdecode)
pieces = st.lists(st.sampled_from(["\\", "\\x", "\\xff", "xff", "\udcff", "'", '"', "$", "\n", "é", " "]), min_size=1)


@given(names | pieces.map("".join))
def test_every_name_is_text_and_comes_back(name: str) -> None:
    text = name_to_text(name)
    assert text.encode().decode() == text
    assert text_to_name(text) == name


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\\\0")))
def test_a_name_that_is_utf_8_is_itself(name: str) -> None:
    assert name_to_text(name) == name


@given(names | pieces.map("".join))
def test_a_name_is_shown_on_one_line(name: str) -> None:
    assert not name or shown(name).isprintable()


def test_bash_reads_the_word_for_each_name() -> None:
    @given(st.lists(names | pieces.map("".join), min_size=20, max_size=20))
    def check(names: list[str]) -> None:
        script = "printf '%s\\0' " + " ".join(map(shell_word, names))
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout.split(b"\0")[:-1] == list(map(os.fsencode, names))

    check()
