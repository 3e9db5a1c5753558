"""Logins by a file of passwords of our own: argon2, and keys for SCRAM beside it."""
