"""The restrictions of postconf(5), and two of our own: a function each, a module for each kind."""

from smtpgw.policy.restrictions import (
    backup,
    certificates,
    dnslists,
    general,
    login,
    names,
    relaying,
    servers,
    services,
    tables,
    verification,
)

__all__ = [
    "backup",
    "certificates",
    "dnslists",
    "general",
    "login",
    "names",
    "relaying",
    "servers",
    "services",
    "tables",
    "verification",
]
