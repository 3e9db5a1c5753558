"""Addresses: RFC 5321 paths and the parameters that follow them, as values."""
