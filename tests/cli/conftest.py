from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> str:
    return str(tiny_model)
