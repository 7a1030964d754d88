"""The names of the options of a call, as its caller may misspell them."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

_LIKENESS: Final = 0.5


def check_names(method: str, options: Mapping[str, object], known: type) -> None:
    """Raise TypeError for an option that is not a key of the TypedDict `known`; it names the likeliest one."""
    for name in options:
        if name not in known.__annotations__:
            near = get_close_matches(name, known.__annotations__, n=1, cutoff=_LIKENESS)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{method} got an unexpected keyword argument {name!r}{advice}")
