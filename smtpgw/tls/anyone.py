"""Asking clients for a certificate without refusing those nobody vouches for.

Python's ssl has no verify callback: with CERT_OPTIONAL, a client that shows a certificate of
its own making is sent away in the handshake.  On a public MX those are many, and a client known
by its fingerprint needs no CA either.  So OpenSSL is told by its own function, found in the
library that this Python's ssl is linked with, to ask and to go on; whether a CA vouches for the
certificate is looked at afterwards (:mod:`smtpgw.tls.peer`).

Where the address of OpenSSL's context stands in Python's object is an affair of CPython's: the
second word behind the object's head since 3.7.  It is tried before it is used, and where it is
not so, clients are not asked.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys

from smtpgw.tls.options import CannotAskError

_ASK_ONCE = 0x01 | 0x04
"""SSL_VERIFY_PEER and SSL_VERIFY_CLIENT_ONCE, without SSL_VERIFY_FAIL_IF_NO_PEER_CERT."""
_CACHE_MODE, _CACHE_OFF = 44, 0
"""SSL_CTRL_SET_SESS_CACHE_MODE and SSL_SESS_CACHE_OFF (openssl/ssl.h)."""
_HEAD = 16
"""Octets of the head of an object, on machines with 64 bits and without Python's debugging."""

_VERIFY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_GO_ON = _VERIFY(lambda _ok, _store: 1)  # kept for ever: OpenSSL calls it


def ask(context: ssl.SSLContext) -> None:
    """From now on clients are asked for a certificate, and served whatever they show; none goes
    on with an earlier session of TLS 1.2, in which it would show nothing.

    Raises CannotAskError.
    """
    library = _library()
    address = _address(context)
    if library.SSL_CTX_get_options(address) != int(context.options) & 0xFFFFFFFFFFFFFFFF:
        raise CannotAskError("OpenSSL's context is not where it was looked for")
    library.SSL_CTX_set_verify(address, _ASK_ONCE, _GO_ON)
    library.SSL_CTX_ctrl(address, _CACHE_MODE, _CACHE_OFF, None)


def _library() -> ctypes.CDLL:
    plain = sys.implementation.name == "cpython" and not hasattr(sys, "gettotalrefcount")
    file = getattr(_ssl, "__file__", None)
    if not plain or sys.maxsize < 2**32 or file is None:
        raise CannotAskError("only CPython with a shared OpenSSL lets us ask")
    library = ctypes.CDLL(file)
    try:
        library.SSL_CTX_get_options.restype = ctypes.c_uint64
        library.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
        library.SSL_CTX_ctrl.restype = ctypes.c_long
        library.SSL_CTX_ctrl.argtypes = [
            ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p,
        ]  # fmt: skip
        library.SSL_CTX_set_verify.restype = None
        library.SSL_CTX_set_verify.argtypes = [ctypes.c_void_p, ctypes.c_int, _VERIFY]
    except AttributeError as error:
        raise CannotAskError("this Python's OpenSSL cannot be reached") from error
    return library


def _address(context: ssl.SSLContext) -> ctypes.c_void_p:
    found = ctypes.c_void_p.from_address(id(context) + _HEAD)
    if not found.value:
        raise CannotAskError("OpenSSL's context is not where it was looked for")
    return found
