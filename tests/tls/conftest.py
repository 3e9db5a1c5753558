"""What the tests of TLS with the running gateway start from."""

from tests.gateway.conftest import place

__all__ = ["place"]
