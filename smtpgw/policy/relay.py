"""Relay control: mail for our domains from anybody, for others only from our own.

The one rule that keeps a server from being an open relay (RFC 5321 section 7.9,
Postfix's permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination).
"""

from __future__ import annotations

from milterd.core.decision import Reply
from milterd.core.mail import Client, Direction, Family
from smtpgw.address.clients import ClientList
from smtpgw.address.resolve import AddressClass, Resolved


async def trusted(client: Client, mynetworks: ClientList) -> bool:
    """Whether the client is one of mynetworks; who comes by a UNIX socket is.
    Raises Unavailable."""
    if client.family is Family.UNIX:
        return True
    return bool(await mynetworks.match(client.address))


def direction(own: bool) -> Direction:
    """Whether a mail is ours (it is then signed) or comes in."""
    return Direction.ORIGINATING if own else Direction.INBOUND


def authorized(resolved: Resolved) -> bool:
    """permit_auth_destination: whether we take mail for this address from anybody.  One that
    says how to send on (`a%b@ours`) is not ours to judge, so it is not among them."""
    return resolved.address_class is not AddressClass.DEFAULT and not (
        resolved.routed or resolved.wrong
    )


def denied(address: str) -> Reply:
    """The refusal (relay_domains_reject_code)."""
    return Reply(554, "5.7.1", f"<{address}>: Relay access denied")
