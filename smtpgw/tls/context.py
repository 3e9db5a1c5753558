"""An OpenSSL context from options and chains."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Sequence

from smtpgw.tls.chains import Chain
from smtpgw.tls.options import ServerOptions

_NO_TICKET = int(ssl.OP_NO_TICKET)
_TICKETS = 1
"""As Postfix.  OpenSSL's two are for browsers, which go on with one session over two connections
at once; a ticket costs a third of what is left to do after the client's Finished."""


class ContextError(Exception):
    """An option that OpenSSL does not take: its key's name, and why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def build(options: ServerOptions, chains: Sequence[Chain]) -> ssl.SSLContext:
    """A context that shows these chains.  Raises ContextError, ChainError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are the postmaster's say
        context.minimum_version = options.versions.first
        context.maximum_version = options.versions.last
        context.options |= options.flags | options.versions.without
    if not options.server_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _ciphers(context, options)
    for each in chains:
        each.load(context)
    context.num_tickets = _TICKETS
    if not options.lifetime or options.clients.ask:
        # A resumed session shows no certificate, only what an earlier one has left.
        context.options |= _NO_TICKET
        context.num_tickets = 0
    if options.clients.ask:
        from smtpgw.tls import anyone  # ctypes, for the few that ask

        anyone.ask(context)
    return context


def _ciphers(context: ssl.SSLContext, options: ServerOptions) -> None:
    try:
        context.set_ciphers(options.ciphers)
    except ssl.SSLError as error:
        raise ContextError("smtpd_tls_ciphers", f"{options.ciphers}: {error}") from error
    if options.curve:
        try:
            context.set_ecdh_curve(options.curve)
        except (ValueError, ssl.SSLError) as error:
            raise ContextError("smtpd_tls_eecdh_grade", f"{options.curve}: {error}") from error
    if options.dh_parameters is not None:
        try:
            context.load_dh_params(str(options.dh_parameters))
        except (OSError, ssl.SSLError) as error:
            reason = f"{options.dh_parameters}: {error}"
            raise ContextError("smtpd_tls_dh1024_param_file", reason) from error
