"""A private slapd (OpenLDAP): its own database, a UNIX socket, and a loopback port."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.peers.process import Peer, answers, daemon, directory, free_port, program

BASE = "dc=example,dc=net"
MANAGER, PASSWORD = f"cn=manager,{BASE}", "secret"

_CONFIG = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
{schema}
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {home}/slapd.pid
argsfile {home}/slapd.args
sizelimit unlimited
allow bind_v2
{tls}
database mdb
suffix "{base}"
rootdn "{manager}"
rootpw {password}
directory {home}/data
maxsize 67108864
dbnosync
index objectClass eq
access to * by * read
"""

SCHEMA = """
attributetype ( 1.3.6.1.4.1.99999.1.1 NAME 'maildrop'
  EQUALITY caseIgnoreIA5Match SUBSTR caseIgnoreIA5SubstringsMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.26{512} )
attributetype ( 1.3.6.1.4.1.99999.1.2 NAME 'memberdn'
  EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15{1024} )
objectclass ( 1.3.6.1.4.1.99999.2.1 NAME 'mailEntry' SUP top AUXILIARY
  MAY ( maildrop $ memberdn $ mail ) )
"""
"""What mail needs beyond inetOrgPerson: maildrop, and memberdn with DNs or LDAP URLs."""


@dataclass(frozen=True)
class Slapd:
    """A slapd that takes LDAP on 127.0.0.1:`port` and on `socket` (`ldapi`, its URL)."""

    port: int
    socket: Path
    peer: Peer

    @property
    def ldapi(self) -> str:
        return f"ldapi://{quote(str(self.socket), safe='')}"

    def add(self, ldif: str) -> None:
        """Add entries, as ldapadd(1) does."""
        command = [
            program("ldapadd", "ldap-utils"), "-x", "-H", self.ldapi, "-D", MANAGER,
            "-w", PASSWORD,
        ]  # fmt: skip
        done = subprocess.run(
            command, input=ldif, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{ldif[:500]}: {done.stderr}")


@contextmanager
def slapd(ldif: str, tls: str = "") -> Iterator[Slapd]:
    """Run slapd with the entries of `ldif` below BASE; `tls` are lines of slapd.conf(5)."""
    start = program("slapd", "slapd")
    with directory("slapd") as home:
        port, socket = free_port(), home / "ldapi"
        config = home / "slapd.conf"
        (home / "data").mkdir()
        config.write_text(
            _CONFIG.format(
                home=home, base=BASE, manager=MANAGER, password=PASSWORD, schema=SCHEMA, tls=tls
            )
        )
        who: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("openldap")
            who = ["-u", "openldap", "-g", "openldap"]
            for each in (home, home / "data", config):
                os.chown(each, owner.pw_uid, owner.pw_gid)
        url = f"ldap://127.0.0.1:{port}/ ldapi://{quote(str(socket), safe='')}"
        command = [start, "-h", url, "-f", str(config), "-d", "0", *who]
        ready = lambda: answers(port) and answers(socket)  # noqa: E731 - once
        with daemon("slapd", command, home, ready) as peer:
            server = Slapd(port, socket, peer)
            server.add(ldif)
            yield server
