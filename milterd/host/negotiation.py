"""What a host asks of the MTA, derived from what its filter needs: no more, no less.

The flags are the same for every connection of a filter: libmilter's table of legal
commands is global to the process, so that one connection's flags loosen it for all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from milterd.core import finding
from milterd.core.filter import Need
from milterd.wire.constants import Actions, Protocol, Stage

_ACTIONS = {
    Need.ADD_HEADERS: Actions.ADDHDRS,
    Need.CHANGE_HEADERS: Actions.CHGHDRS,
    Need.CHANGE_BODY: Actions.CHGBODY,
    Need.CHANGE_SENDER: Actions.CHGFROM,
    Need.CHANGE_RECIPIENTS: Actions.ADDRCPT | Actions.ADDRCPT_PAR | Actions.DELRCPT,
    Need.QUARANTINE: Actions.QUARANTINE,
}
_UNSHOWN = {
    Need.HELO: Protocol.NOHELO,
    Need.RECIPIENTS: Protocol.NORCPT,
    Need.HEADERS: Protocol.NOHDRS,
    Need.BODY: Protocol.NOBODY,
}
_NO_REPLIES = (
    Protocol.NR_CONN
    | Protocol.NR_HELO
    | Protocol.NR_MAIL
    | Protocol.NR_RCPT
    | Protocol.NR_DATA
    | Protocol.NR_UNKN
    | Protocol.NR_HDR
    | Protocol.NR_EOH
    | Protocol.NR_BODY
)
_NEVER_SHOWN = Protocol.NOUNKNOWN | Protocol.NODATA | Protocol.NOEOH

MACROS: Mapping[Stage, tuple[str, ...]] = MappingProxyType(
    {
        Stage.CONNECT: ("j", "{daemon_name}", "{daemon_addr}", "_"),
        Stage.HELO: ("{tls_version}", "{cipher}", "{cipher_bits}"),
        Stage.MAIL: ("i", "{auth_type}", "{auth_authen}", "{mail_addr}"),
        Stage.END_OF_HEADERS: ("i",),
        Stage.END_OF_MESSAGE: ("i",),
    }
)
"""The macros a filter may see, by the stage the MTA sends them at.

The end of headers bears the same list as the end of message: Sendmail 8.18 looks at the
one to choose the other.
"""


@functools.cache
def actions(needs: Need) -> Actions:
    """The edits to negotiate; SETSYMLIST because the macros are chosen here."""
    wanted = Actions.SETSYMLIST
    for need, flags in _ACTIONS.items():
        if need in needs:
            wanted |= flags
    return wanted


@functools.cache
def protocol(needs: Need) -> Protocol:
    """The protocol flags to negotiate: only the end of a message awaits a reply, header
    values come exact (HDR_LEADSPC), and what nobody needs does not come at all."""
    wanted = _NO_REPLIES | _NEVER_SHOWN | Protocol.HDR_LEADSPC
    for need, flag in _UNSHOWN.items():
        if need not in needs:
            wanted |= flag
    return wanted


UNASKED: Mapping[Stage, tuple[str, ...]] = MappingProxyType({Stage.MAIL: (f"{{{finding.MACRO}}}",)})
"""Macros that are read where an MTA sends them by itself, as our gateway does: no MTA is asked for
them, so none that goes by its own settings or by a mail sends them."""


def read_macros(stage: Stage) -> tuple[str, ...]:
    """The names of a stage as they are on the wire: those asked for, and the others."""
    return (*MACROS.get(stage, ()), *UNASKED.get(stage, ()))


@functools.cache
def macro_names(stage: Stage | None) -> Mapping[bytes, str]:
    """A stage's names without braces: as they are on the wire, and as a mail's session has them."""
    names = [each.strip("{}") for each in read_macros(stage)] if stage is not None else []
    return {each.encode("ascii"): each for each in names}


@functools.cache
def all_names() -> tuple[str, ...]:
    """Those of all stages, without braces."""
    return tuple({name: None for stage in Stage for name in macro_names(stage).values()})
