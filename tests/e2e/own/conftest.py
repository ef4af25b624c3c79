"""Servers of a test's own, to be limited, filled or killed."""

import itertools

import pytest

from e2e.conftest import running_server

_numbers = itertools.count(1)


@pytest.fixture
def server(request):
    """A server that only this test uses; `@pytest.mark.settings(NAME="value")` adds to its environment."""
    marker = request.node.get_closest_marker("settings")
    # Short: paths of sockets below the data folder have at most 108 bytes.
    with running_server(f"own{next(_numbers)}", dict(marker.kwargs) if marker else None) as made:
        yield made
