from __future__ import annotations

import pytest
from index.kinds import Kind


@pytest.fixture(params=["asmk", "kdtree"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)
