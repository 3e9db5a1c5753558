"""argon2id (RFC 9106), with the parameters that argon2-cffi takes for the second choice of the
RFC: 64 MiB, three passes.

The library is loaded when the first password is looked at, not at start.
"""

from __future__ import annotations

from smtpgw.sasl.prep import password_octets


def make(password: bytes) -> bytes:
    """The hash of a new password, with its parameters and a salt of its own."""
    import argon2

    return argon2.PasswordHasher().hash(password_octets(password)).encode("ascii")


def fits(made: bytes, password: bytes) -> bool:
    """Whether the hash is this password's.  Takes a while, and as much memory as it says; other
    threads go on.  Raises ValueError for what is no hash."""
    import argon2

    try:
        return argon2.PasswordHasher().verify(made, password_octets(password))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except argon2.exceptions.Argon2Error as error:
        raise ValueError(f"a hash that argon2 cannot read: {error}") from error
    except argon2.exceptions.InvalidHashError as error:
        raise ValueError("no hash of argon2") from error
