"""The client of segue: generate and score text over gRPC.

from segue_client import Client

with Client("127.0.0.1:50051") as client:
    print(client.generate("Once ").text())
    print(client.score("Once upon a time").perplexity)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue_client.public import *  # noqa: F403 - its __all__
else:

    def __getattr__(name: str) -> Any:
        """Import the client when it is first used: the `segue` command answers signals before it imports gRPC."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return getattr(import_module("segue_client.public"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("segue_client.public").__all__})
