"""Every attack with its sizes: the small ones are among the tests, the full ones are what `make stress` runs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.harness.finding import Finding
from attacks.harness.servers import Serve, Servers
from attacks.scenarios import streams_reset, unread_replies


@dataclass(frozen=True)
class Attack:
    """An attack of one size."""

    name: str
    function: Callable[[Serve, Any], list[Finding]]
    sizes: Any

    def run(self, models: Path) -> list[Finding]:
        """Attack servers of these models; return what was found, and what holds for every server afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            servers = Servers(models, Path(folder))
            found = self.function(servers, self.sizes)
            Path("/tmp/last.log").write_text(servers._ends[-1].log)
            return [*found, *servers.findings(self.name)]


SMALL = (
    Attack("streams reset", streams_reset.streams_reset, streams_reset.SMALL),
    Attack("unread replies", unread_replies.unread_replies, unread_replies.SMALL),
)
FULL = ()
