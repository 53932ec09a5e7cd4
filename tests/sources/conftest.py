"""Fixtures for tests of sources."""

import pytest


@pytest.fixture(params=["in memory", "mapped"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Keep parsed records in memory, or in a file as if they were too many for memory."""
    if request.param == "mapped":
        monkeypatch.setattr("pipeline.sources.record_table.MAX_IN_MEMORY", 10)
    return str(request.param)
