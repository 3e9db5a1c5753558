"""One host to deliver to: what the choice of hosts hands to the pool of connections.

The choice (which hosts, in which order) ends here; the pool connects to the address,
and finds the TLS policy and the password by the names.  Nothing is resolved any more.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hop:
    """`address` is an IP address, or, where `port` is 0, the path of a UNIX socket.

    `host` is the host's name for TLS, passwords and log: what the MX record or the nexthop
    says, without brackets and final dot; empty for a UNIX socket.  `nexthop` is what mail
    is sent to, spelled as the postmaster did (`example.net`, `[mail.example.net]:587`): the
    key of tables by destination, as in Postfix (smtp_tls_policy_maps).
    """

    nexthop: str
    host: str
    address: str
    port: int
    lmtp: bool = False

    @property
    def local(self) -> bool:
        """Whether it is a UNIX socket."""
        return self.port == 0

    @property
    def domain(self) -> str:
        """The nexthop without brackets and port: the name that `nexthop` in a match means."""
        name = self.nexthop
        if name.startswith("["):
            return name[1:].partition("]")[0].lower()
        return name.partition(":")[0].lower()

    def __str__(self) -> str:
        if self.local:
            return f"unix:{self.address}"
        return f"{self.host}[{self.address}]:{self.port}"
