"""The names of models, which are names of folders too."""

import re
import unicodedata
from typing import Final

from segue_export.errors import InvalidName

_LONGEST: Final = 64
_LEGAL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def is_legal_name(name: str) -> bool:
    """Return whether a model can have this name."""
    return _LEGAL.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raise InvalidName, which suggests another, if no model can have this name."""
    if not is_legal_name(name):
        raise InvalidName(
            f"--name {name!r} cannot be a model's name: use 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a "
            f"letter or digit, such as --name {legal_name(name) or 'model'}"
        )


def legal_name(text: str) -> str:
    """Return the name that is most like `text`: in small letters without accents; "" if nothing is left of it."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))
    return re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._")[:_LONGEST].rstrip("-._")


def name_after(corpus: str) -> str:
    """Return the name for a model of a corpus. Raises InvalidName if none can be made of the corpus's."""
    if name := legal_name(corpus):
        return name
    raise InvalidName(f"no model's name can be made of the corpus's, {corpus!r}; choose one, such as --name model")
