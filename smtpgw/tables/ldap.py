"""ldap: tables, ldap_table(5): a search in an LDAP directory, through ldap3 in threads.

ldap3 is an extra of the distribution (gatepost[ldap]).  Servers are asked in the order
they are named.  `bind = sasl` is not supported.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import re
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

from smtpgw.tables import cf as cfs
from smtpgw.tables.asked import Asked, template, where_of
from smtpgw.tables.cf import Cf
from smtpgw.tables.context import Context
from smtpgw.tables.ldap_search import LdapConnection, Search, Wanted, lost
from smtpgw.tables.servers import Limits, Lost, Server, Servers
from smtpgw.tables.table import Table
from smtpgw.tables.template import Parts, expand, letters

_NAMES = re.compile(r"[ ,\t\r\n]+")
_DN = re.compile(rb"[ \t\"#+,;<>\\=\x00-\x1f]")
_FILTER = re.compile(rb"[^A-Za-z0-9@._-]")


def open(name: str, context: Context) -> Table:
    """The table of the .cf file `name`.  Raises TableError, without the library too."""
    cf = cfs.read(name, context)
    if importlib.util.find_spec("ldap3") is None:
        raise cf.error("the Python library ldap3 is not installed", "pip install gatepost[ldap]")
    text = cf.text("query_filter", "(mailacceptinggeneralid=%s)")
    base = template(cf, "search_base", cf.text("search_base"))
    query = template(cf, "query_filter", text if text.startswith("(") else f"({text})")
    if cf.get("result_format") is None and cf.line("result_filter"):
        cf.rename("result_filter", "result_format")
    source = _Directory(cf, context, base, query)
    return Asked(cf, context, source, [base, query], where_of(cf, "query_filter", text))


def _servers(cf: Cf) -> list[Server]:
    port = cf.number("server_port", 389)
    found = []
    for each in filter(None, _NAMES.split(cf.text("server_host", "localhost", empty=False))):
        url = each if "://" in each else f"ldap://{each}"
        parts = urlsplit(url)
        if parts.scheme not in ("ldap", "ldaps", "ldapi"):
            raise cf.error(each, "ldap://, ldaps:// or ldapi://", cf.line("server_host"))
        try:
            given = None if parts.scheme == "ldapi" else parts.port
        except ValueError as error:
            raise cf.error(each, "a port from 1 to 65535", cf.line("server_host")) from error
        if parts.scheme == "ldapi":
            found.append(Server(url, f"ldapi://{unquote(parts.netloc)}", unix=True))
            continue
        usual = 636 if parts.scheme == "ldaps" else 389 if "://" in each else port
        host = parts.hostname or "localhost"
        found.append(Server(f"{parts.scheme}://{host}", host, given or usual))
    return found


def _bind(cf: Cf) -> bool:
    how = cf.text("bind", "yes").lower()
    if how not in ("yes", "simple", "no", "none"):
        raise cf.error(f"bind = {how}", "yes, simple, no or none", cf.line("bind"))
    return how in ("yes", "simple")


def _wanted(cf: Cf) -> Wanted:
    def names(name: str, default: str = "") -> tuple[str, ...]:
        return tuple(filter(None, _NAMES.split(cf.text(name, default))))

    return Wanted(
        names("terminal_result_attribute"),
        names("leaf_result_attribute"),
        names("result_attribute", "maildrop"),
        names("special_result_attribute"),
    )


def _search(cf: Cf, context: Context) -> Search:
    scope = cf.text("scope", "sub").lower()
    if scope not in ("sub", "one", "base"):
        raise cf.error(f"scope = {scope}", "sub, one or base", cf.line("scope"))
    dereference = cf.number("dereference", 0)
    if dereference > 3:
        raise cf.error(f"dereference = {dereference}", "0 to 3", cf.line("dereference"))
    return Search(
        scope=scope,
        wanted=_wanted(cf),
        dereference=dereference,
        size_limit=cf.number("size_limit", cf.number("expansion_limit", 0)),
        recursion_limit=cf.number("recursion_limit", 1000, 1),
        time_limit=min(cf.number("timeout", 10) or 10, context.query_limit),
        clock=context.clock,
    )


def _tls(cf: Cf) -> dict[str, Any]:
    """What ldap3.Tls() is told."""
    verify = cf.flag("tls_require_cert", default=False)
    told = {
        "ca_certs_file": cf.text("tls_ca_cert_file"),
        "ca_certs_path": cf.text("tls_ca_cert_dir"),
        "local_certificate_file": cf.text("tls_cert"),
        "local_private_key_file": cf.text("tls_key"),
        "ciphers": cf.text("tls_cipher_suite"),
    }
    kept = {name: value for name, value in told.items() if value}
    return {"validate": ssl.CERT_REQUIRED if verify else ssl.CERT_NONE, **kept}


def _hex(match: re.Match[bytes]) -> bytes:
    return b"\\%02X" % match[0][0]


class _Directory:
    """The servers, and what they are asked."""

    def __init__(self, cf: Cf, context: Context, base: Any, query: Any) -> None:
        self._base, self._query = base, query
        self._search, self._bind, self._tls = _search(cf, context), _bind(cf), _tls(cf)
        self._user, self._password = cf.text("bind_dn"), cf.text("bind_pw")
        self._start_tls = cf.flag("start_tls", default=False)
        self._version = cf.number("version", 3, 2)
        self._chase = cf.flag("chase_referrals", default=False)
        self._limit = context.connect_limit
        for each in ("cache", "cache_expiry", "cache_size", "debuglevel", "tls_random_file"):
            cf.get(each)  # what Postfix ignores, or what OpenLDAP's library alone knows
        self._threads = ThreadPoolExecutor(context.connections, "ldap-table")
        limits = Limits(
            context.connect_limit, context.query_limit, size=context.connections, in_order=True
        )
        self._servers = Servers(cf.spec, _servers(cf), self._connect, limits, context)

    async def values(self, key: Parts) -> Iterable[bytes | None]:
        """The values of the wanted attributes.  Raises Unavailable."""
        base = expand(self._base, lambda each: _DN.sub(_hex, key.get(each))).decode()
        query = expand(self._query, lambda each: _FILTER.sub(_hex, key.get(each))).decode()
        fixed = not letters(self._base)
        return await self._servers.ask(
            lambda connection: self._run(connection.search, self._search, base, query, fixed)
        )

    async def _run(self, function: Any, *arguments: Any) -> Any:
        ask = functools.partial(function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    async def _connect(self, server: Server) -> LdapConnection:
        made = LdapConnection(await self._run(self._make, server), self._run)
        try:
            await self._run(made.open, self._start_tls, self._bind)
        except BaseException:
            made.drop()
            raise
        return made

    def _make(self, server: Server) -> Any:
        import ldap3

        try:
            at = ldap3.Server(
                server.host, port=server.port or None, get_info=ldap3.NONE,
                use_ssl=server.name.startswith("ldaps:"), tls=ldap3.Tls(**self._tls),
                connect_timeout=self._limit,
            )  # fmt: skip
            return ldap3.Connection(
                at, user=self._user or None, password=self._password or None,
                version=self._version, read_only=True, check_names=False,
                auto_referrals=self._chase, receive_timeout=max(1, round(self._search.time_limit)),
            )  # fmt: skip
        except Exception as error:
            raise Lost(lost(error)) from error

    async def close(self) -> None:
        """Close the connections and end the threads."""
        await self._servers.close()
        self._threads.shutdown(wait=False)
