"""What a restriction may look at: who is connected, and what has been said so far.  Frozen.

A road makes new Facts of the old ones with each command.  Addresses are internal ones
(:mod:`smtpgw.address.form`); what has not been said is None, which is not the same as empty: the
null sender is `b""`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields

from milterd.core.mail import Client
from smtpgw.edge.names import UNKNOWN_NAME, PeerName
from smtpgw.edge.road import Login, Tls


class State(enum.Enum):
    """Which command is being answered: protocol_state of SMTPD_POLICY_README."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own way takes two calls

    CONNECT = "CONNECT"
    EHLO = "EHLO"
    HELO = "HELO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    END_OF_MESSAGE = "END-OF-MESSAGE"
    VRFY = "VRFY"
    ETRN = "ETRN"


@dataclass(frozen=True)
class Facts:
    """`recipients` counts those accepted so far; `instance` names a mail, the same for all that
    is asked about it; `pipelining` says that the client has sent more before it might; `size` is
    what MAIL announced or, once the message is here, its size in octets."""

    client: Client
    names: PeerName = field(default_factory=PeerName)
    state: State = State.CONNECT
    listener: str = ""
    local_address: bytes = b""
    local_port: int = 0
    helo: bytes | None = None
    esmtp: bool = False
    tls: Tls | None = None
    login: Login | None = None
    sender: bytes | None = None
    recipient: bytes | None = None
    recipients: int = 0
    etrn: bytes | None = None
    size: int = 0
    utf8: bool = False
    pipelining: bool = False
    stressed: bool = False
    queue_id: str = ""
    instance: str = ""
    session: str = ""

    def but(self, **changes: object) -> Facts:
        """The same with these changes, as dataclasses.replace() makes it, at a tenth of its cost:
        there are some of these with each command.  Raises TypeError for what is no field."""
        made = object.__new__(Facts)
        values = made.__dict__
        values.update(self.__dict__, **changes)
        if len(values) != _COUNT:
            raise TypeError(f"not fields of Facts: {sorted(values.keys() - _FIELDS)}")
        return made

    @property
    def address(self) -> str:
        """The client's address, `unknown` where it has none."""
        return self.client.address.decode("ascii", "replace") or UNKNOWN_NAME.decode()

    @property
    def shown(self) -> str:
        """`name[address]`, as Postfix writes clients."""
        return f"{self.names.name.decode('utf-8', 'replace')}[{self.address}]"

    @property
    def protocol(self) -> str:
        """`SMTP` or `ESMTP`."""
        return "ESMTP" if self.esmtp else "SMTP"


_FIELDS = frozenset(each.name for each in fields(Facts))
_COUNT = len(_FIELDS)
