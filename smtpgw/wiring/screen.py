"""From the settings to the screens of the listeners: options, tables, and what they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from structlog.typing import FilteringBoundLogger

from milterd.base.toml_file import ConfigError, Problem
from smtpgw import parameters, wiring
from smtpgw.address.clients import ClientList
from smtpgw.addresses import close_tables
from smtpgw.config import Listener, Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.dns.changing import ChangingResolver
from smtpgw.dns.resolver import DnsOptions
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.road import Note
from smtpgw.screen.cache import PassCache
from smtpgw.screen.early import Access
from smtpgw.screen.gate import Gate, ScreenMeans
from smtpgw.screen.options import Action, ScreenOptions
from smtpgw.screen.passes import Test
from smtpgw.screen.sites import parse_sites
from smtpgw.screen_lists import WORDS, AccessList, Forbidden, Interfaces, always
from smtpgw.table_room import TableRoom
from smtpgw.tables import spec
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import LocalTable, Table, Unavailable

CACHE = "screen.sqlite"


QUESTIONS = 1000
"""Questions to lists at once: a list that is dead holds each of them for seconds."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the screens of all listeners have together.  The resolver is one for lists alone, so
    that a dead one takes no question from restrictions and deliveries."""

    resolver: ChangingResolver
    cache: PassCache
    note: Note
    log: FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class Screens:
    """The screens of some settings, by listener.  Close them when others are in force."""

    gates: Mapping[str, Gate]
    tables: tuple[Table, ...] = ()

    async def close(self) -> None:
        """Give back what the tables hold."""
        await close_tables(self.tables)


def dns(settings: Smtpgw) -> DnsOptions:
    """Whom to ask for lists."""
    return replace(wiring.dns(settings), queries=QUESTIONS)


async def check(settings: Smtpgw, log: FilteringBoundLogger) -> None:
    """Open what screening needs, and close it again.  Raises ConfigError."""
    if not _screened(settings):
        return
    room = await asyncio.to_thread(TableRoom, settings, log)
    edge = EdgeOptions()
    for each in _screened(settings):
        builder = _Builder(settings, each, room, log)
        await builder.options(edge)
        await asyncio.to_thread(builder.access, ClientList())
        await asyncio.to_thread(builder.allows)
    await close_tables(room.tables)
    if room.problems:
        raise ConfigError(room.problems)


def _screened(settings: Smtpgw) -> list[Listener]:
    return [each for each in settings.listener if settings.reception(each).postscreen_enable]


async def open_screens(
    settings: Smtpgw,
    mynetworks: ClientList,
    edges: Mapping[str, tuple[EdgeOptions, EdgeOptions]],
    shared: Shared,
) -> Screens:
    """Those of the listeners that have one.  Raises ConfigError for all that cannot be used."""
    listeners = _screened(settings)
    if not listeners:
        return Screens({})
    room = await asyncio.to_thread(TableRoom, settings, shared.log)
    builders = [_Builder(settings, each, room, shared.log) for each in listeners]
    gates = {}
    for each in builders:
        options = await each.options(edges[each.listener.name][0])
        means = ScreenMeans(
            shared.resolver,
            shared.cache,
            await asyncio.to_thread(each.access, mynetworks),
            await asyncio.to_thread(each.allows),
            time.time,
            shared.log,
            shared.note,
        )
        gates[each.listener.name] = Gate(options, means, each.stressed(options))
    if room.problems:
        await close_tables(room.tables)
        raise ConfigError(room.problems)
    return Screens(gates, room.tables)


class _Builder:
    """One listener's."""

    def __init__(
        self, settings: Smtpgw, listener: Listener, room: TableRoom, log: FilteringBoundLogger
    ) -> None:
        self._settings, self.listener, self._room = settings, listener, room
        self._reception: Reception = settings.reception(listener)
        self._log = log

    async def options(self, edge: EdgeOptions) -> ScreenOptions:
        """How its clients are screened."""
        has = self._reception
        if edge.tls_wrapper:
            self._wrong("postscreen_enable", "smtpd_tls_wrappermode too", "one of them")
        banner = self._expanded("postscreen_greet_banner", has.postscreen_greet_banner)
        sites = parse_sites(has.postscreen_dnsbl_sites)
        names = await self._reply_names([each.domain for each in sites])
        deny = has.postscreen_denylist_action or has.postscreen_blacklist_action or "ignore"
        allow = has.postscreen_dnsbl_allowlist_threshold
        return ScreenOptions(
            myhostname=edge.myhostname,
            banner=f"{edge.myhostname} ESMTP {edge.mail_name}",
            denylist_action=deny,
            actions=_actions(has),
            ttl=_ttl(has),
            greet_banner=banner,
            greet_wait=has.postscreen_greet_wait,
            dnsbl_sites=sites,
            dnsbl_threshold=has.postscreen_dnsbl_threshold,
            dnsbl_allowlist_threshold=allow or has.postscreen_dnsbl_whitelist_threshold,
            dnsbl_timeout=has.postscreen_dnsbl_timeout,
            dnsbl_min_ttl=has.postscreen_dnsbl_min_ttl,
            reply_names=names,
            deep=_deep(has),
            deep_defer=has.postscreen_deep_defer,
            command_count_limit=has.postscreen_command_count_limit,
            command_time_limit=has.postscreen_command_time_limit,
            message_size_limit=edge.content.message_size_limit,
            disable_vrfy=has.postscreen_disable_vrfy_command,
            helo_required=has.postscreen_helo_required,
            forbidden=await asyncio.to_thread(self._forbidden),
            pre_queue_limit=(
                has.postscreen_pre_queue_limit or self._settings.default_process_limit
            ),
            client_limit=has.postscreen_client_connection_count_limit,
            starttls=edge.security is not None,
            tls_required=edge.tls_required,
            etrn=edge.etrn,
        )

    def stressed(self, options: ScreenOptions) -> ScreenOptions:
        """The same under stress, when nobody is waited for as long."""
        has = self._settings.reception(self.listener, stress=True)
        return replace(
            options,
            greet_wait=has.postscreen_greet_wait,
            command_time_limit=has.postscreen_command_time_limit,
        )

    def access(self, mynetworks: ClientList) -> Callable[[str], Awaitable[Access]]:
        """postscreen_access_list, ready to be asked."""
        name = "postscreen_access_list"
        steps: list[Access | ClientList | Maps] = []
        for each in self._list(name, self._reception.postscreen_access_list):
            word = each.lower()
            if word == "permit_mynetworks":
                steps.append(mynetworks)
            elif word in WORDS:
                steps.append(WORDS[word])
            elif ":" in each:
                maps = self._room.open(name, [each])
                steps += [maps] if maps is not None else []
            else:
                self._wrong(name, each, "permit_mynetworks, permit, reject, dunno or a table")
        return AccessList(steps, mynetworks, self._log).ask

    def allows(self) -> Callable[[str], Awaitable[bool]]:
        """postscreen_allowlist_interfaces, ready to be asked."""
        has, name = self._reception, "postscreen_allowlist_interfaces"
        text = has.postscreen_allowlist_interfaces or has.postscreen_whitelist_interfaces
        patterns = self._list(name, text)
        if not patterns or patterns == ["static:all"]:
            return always
        return Interfaces(self._room.client_list(name, " ".join(patterns)), self._log).ask

    def _forbidden(self) -> Callable[[bytes], bool]:
        """postscreen_forbidden_commands: words, and tables that need not be waited for."""
        name = "postscreen_forbidden_commands"
        words: set[bytes] = set()
        tables: list[LocalTable] = []
        for each in spec.split(", ".join(self._reception.postscreen_forbidden_commands)):
            if ":" not in each:
                words.add(each.lower().encode())
                continue
            maps = self._room.open(name, [each])
            for table in maps.tables if maps is not None else ():
                if isinstance(table, LocalTable):
                    tables.append(table)
                else:
                    self._wrong(name, each, "a table that is read into memory")
        return Forbidden(frozenset(words), tuple(tables)).has

    async def _reply_names(self, domains: Iterable[str]) -> dict[str, str]:
        name = "postscreen_dnsbl_reply_map"
        text = self._expanded(name, self._reception.postscreen_dnsbl_reply_map)
        maps = await asyncio.to_thread(self._room.open, name, [text] if text else [])
        found: dict[str, str] = {}
        if maps is None:
            return found
        for each in domains:
            try:
                hit = await maps.find(each.encode())
            except Unavailable as error:
                self._wrong(name, str(error), "a table that answers")
                break
            if hit is not None:
                found[each] = hit.value.decode("ascii", "replace")
        return found

    def _list(self, name: str, entries: Iterable[str]) -> list[str]:
        return list(spec.split(self._expanded(name, ", ".join(entries))))

    def _expanded(self, name: str, text: str) -> str:
        try:
            return parameters.expand(text, self._settings.parameters())
        except parameters.ParameterError as error:
            self._wrong(name, error.found, error.expected)
            return ""

    def _wrong(self, name: str, found: str, expected: str) -> None:
        where = f"listener {self.listener.name}: {name}"
        self._room.problems.append(Problem("settings", 0, where, found, expected))


def _actions(has: Reception) -> dict[Test, Action]:
    return {
        Test.PREGREET: has.postscreen_greet_action,
        Test.DNSBL: has.postscreen_dnsbl_action,
        Test.PIPELINING: has.postscreen_pipelining_action,
        Test.NON_SMTP: has.postscreen_non_smtp_command_action,
        Test.BARE_NEWLINE: has.postscreen_bare_newline_action,
    }


def _ttl(has: Reception) -> dict[Test, float]:
    return {
        Test.PREGREET: has.postscreen_greet_ttl,
        Test.DNSBL: has.postscreen_dnsbl_ttl or has.postscreen_dnsbl_max_ttl,
        Test.PIPELINING: has.postscreen_pipelining_ttl,
        Test.NON_SMTP: has.postscreen_non_smtp_command_ttl,
        Test.BARE_NEWLINE: has.postscreen_bare_newline_ttl,
    }


def _deep(has: Reception) -> frozenset[Test]:
    enabled = {
        Test.PIPELINING: has.postscreen_pipelining_enable,
        Test.NON_SMTP: has.postscreen_non_smtp_command_enable,
        Test.BARE_NEWLINE: has.postscreen_bare_newline_enable,
    }
    return frozenset(test for test, on in enabled.items() if on)
