from __future__ import annotations

import pytest

from delf_engine.synthesis import Synthesized, synthesize
from synthesis.small import SMALL


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    """A set of 30 small photographs and 4 queries of 2 landmarks, in a folder that no test changes."""
    return synthesize(tmp_path_factory.mktemp("synthetic") / "set", workers=1, **SMALL)
