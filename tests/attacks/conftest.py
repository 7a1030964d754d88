"""The model that is attacked, and what a test asserts of an attack."""

from pathlib import Path

import pytest

from attacks.catalogue import Attack
from attacks.harness.models import write_attacked_model


@pytest.fixture(scope="session")
def attacked_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `attacked`."""
    folder = tmp_path_factory.mktemp("attacked")
    write_attacked_model(folder)
    return folder


@pytest.fixture
def missed_bars(attack: Attack, attacked_models: Path) -> list[str]:
    """The bars that an attack's figures miss, those by the clock left out."""
    return [str(found) for found in attack.run(attacked_models) if not (found.passed or found.by_clock)]
