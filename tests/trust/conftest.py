"""The coordinator of the server's tests, for tests of trust."""

from tests.server.conftest import coordinator

__all__ = ["coordinator"]
