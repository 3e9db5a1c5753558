"""The milter half's tables of gatepost.toml, and what the rooms are told by them.

[log] and [metrics] are shared with the gateway half, [milterd] and [filter.*] are
ours, and the other half's tables are left alone (see :mod:`milterd.base.settings`).
A filter runs if its table is in the file, be it empty.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from milterd.base import metrics, row, sockets, toml_file
from milterd.base.fields import Duration, Kind, Size
from milterd.base.settings import CommonSettings, MetricsSettings, Table, placed
from milterd.base.settings import parse as parse_settings
from milterd.base.toml_file import ConfigError, Problem
from milterd.config_attachments import AttachmentsSettings
from milterd.config_clamav import ClamavSettings
from milterd.config_dkim import DkimTable
from milterd.config_filter import FilterTable, Outcomes, Socket
from milterd.config_headers import HeadersSettings
from milterd.config_own import OwnName, OwnSettings
from milterd.config_signed import SignedSettings
from milterd.host.memory import BLOCK
from milterd.host.options import MIB, OnFailure, Options, Oversize
from milterd.host.seam import HostKind

DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")

_OPEN_EACH = 2
"""Files of a connection: its socket, and what holds a body over memory_limit."""
_OPEN_BESIDE = 512
"""Files of a filter's process beside: its log, clamd, name servers, tables."""


def _mode(text: str) -> str:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError('expected an octal mode such as "0660"')
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f'expected a network such as "192.0.2.0/24": {error}') from None


Mode = Annotated[str, AfterValidator(_mode), Kind("octal mode")]
Network = Annotated[str, AfterValidator(_network), Kind("network")]


class MilterdSettings(Table):
    """All filters of milterd: their sockets, and which mail is our own."""

    socket_directory: Path = Field(
        default=Path("/var/spool/postfix/milterd"),
        description="where relative socket paths are; Debian's chrooted Postfix sees only what "
        "is below /var/spool/postfix",
    )
    socket_mode: Mode = Field(default="0660", description="mode of UNIX sockets, octal")
    socket_owner: str = Field(default="", description="their owner; empty keeps milterd's user")
    socket_group: str = Field(
        default="postfix", description="their group, which the MTA has to be in; empty keeps ours"
    )
    trusted_networks: tuple[Network, ...] = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="mail from clients in these networks is originating: signed, not screened as "
        "inbound (Postfix's mynetworks)",
    )
    daemon_names: tuple[str, ...] = Field(
        default=("ORIGINATING",),
        description="so is mail that came in by a listener with one of these names (Postfix's "
        "milter_macro_daemon_name); authenticated mail always is",
    )
    spool_directory: Path | None = Field(
        default=None,
        description="where large messages wait while a filter looks at them; empty means the "
        "system's directory for temporary files",
        examples=["/var/tmp"],  # noqa: S108  # an example for the settings file
    )
    memory_limit: Size = Field(
        default=1 * MIB, description="bodies up to this size are kept in memory"
    )
    memory_total: Size = Field(
        default=256 * MIB,
        description="for all mails together that come in to a filter's process: when it is used "
        "up, further bodies are kept in files, and a mail whose header has no room is put off",
    )
    size_limit: Size = Field(
        default=100 * MIB, description="largest message that filters are given"
    )
    oversize: Oversize = Field(
        default=Oversize.REJECT, description="what becomes of larger ones: reject with 552"
    )
    header_limit: Size = Field(
        default=1 * MIB, description="largest header and envelope; a larger one is oversize too"
    )
    idle_timeout: Duration = Field(
        default=7210.0, gt=0, description="an MTA connection without a word is closed after this"
    )
    service_throttle_time: Duration = Field(
        default=60.0,
        gt=0,
        description="longest pause before a filter that keeps ending is started again",
    )
    connections: int = Field(
        default=4000,
        gt=0,
        description="MTA connections at a time of a filter's process, which raises its limit of "
        "open files for so many; a native host takes no more, and those wait",
    )


class DkimSettings(DkimTable, FilterTable):
    """DKIM: signing of originating mail, verifying of inbound mail."""

    socket: Socket = Field(
        default="unix:dkim.sock", description=FilterTable.model_fields["socket"].description
    )
    host: HostKind = Field(
        default=HostKind.NATIVE, description=FilterTable.model_fields["host"].description
    )

    def outcomes(self) -> Outcomes:
        """See :meth:`FilterTable.outcomes`."""
        unsigned = self.on_key_error + (" (unsigned)" if self.on_key_error == "accept" else "")
        rows = [("no key or table", "", unsigned)]
        if self.verify:
            waits = self.on_dns_error + (" (marked)" if self.on_dns_error == "accept" else "")
            rows.append(("no answer from DNS", waits, ""))
        return rows


FilterSettings = ClamavSettings | AttachmentsSettings | DkimSettings | HeadersSettings | OwnSettings
OURS = frozenset({"clamav", "attachments", "dkim", "headers"})
"""Names that no filter of a postmaster's own can have."""


class FilterTables(Table):
    """The filters, each in a process of its own; one runs if its table is here."""

    clamav: ClamavSettings | None = None
    attachments: AttachmentsSettings | None = None
    dkim: DkimSettings | None = None
    headers: HeadersSettings | None = None
    own: dict[OwnName, OwnSettings] = Field(
        default={}, examples=[{"trap": {"socket": "unix:trap.sock"}}]
    )

    def present(self) -> Mapping[str, FilterSettings]:
        """The filters to run, by name."""
        found = {
            "clamav": self.clamav,
            "attachments": self.attachments,
            "dkim": self.dkim,
            "headers": self.headers,
            **self.own,
        }
        return {name: each for name, each in found.items() if each is not None}


class MilterdConfig(CommonSettings):
    """All that milterd reads of the settings file."""

    milterd: MilterdSettings = MilterdSettings()
    filter: FilterTables = FilterTables()

    def address(self, name: str) -> sockets.SocketAddress:
        """Where a filter listens."""
        text = self.filter.present()[name].socket or f"unix:{name}.sock"
        return sockets.parse(text, directory=str(self.milterd.socket_directory))

    @property
    def open_files(self) -> int:
        """Descriptors that a filter's process may need."""
        return _OPEN_EACH * self.milterd.connections + _OPEN_BESIDE

    def host_options(self, name: str) -> Options:
        """For a filter's host."""
        own, table = self.milterd, self.filter.present()[name]
        # A filter that waits for nobody gets no thread, which would only cost it time.
        waits = (
            isinstance(table, ClamavSettings | AttachmentsSettings | DkimSettings | OwnSettings)
            or (isinstance(table, SignedSettings) and table.check_signatures)
            or (isinstance(table, HeadersSettings) and table.checks_bodies)
        )
        threads = getattr(table, "threads", 0) if waits else 0
        return Options(
            trusted_networks=tuple(ip_network(each) for each in own.trusted_networks),
            daemon_names=frozenset(each.encode() for each in own.daemon_names),
            spool_directory=own.spool_directory,
            memory_limit=own.memory_limit,
            memory_total=own.memory_total,
            size_limit=own.size_limit,
            header_limit=own.header_limit,
            oversize=own.oversize,
            threads=threads,
            connections=own.connections,
            idle_timeout=own.idle_timeout,
            on_failure=getattr(table, "on_failure", OnFailure.TEMPFAIL),
            shadow=table.mode == "shadow",
            judge_time=table.timeout if isinstance(table, OwnSettings) else None,
            faults=table.failures.actions(),
        )


def load(path: str | os.PathLike[str]) -> MilterdConfig:
    """Our half of the settings file.  Raises :class:`ConfigError` with all problems."""
    text = toml_file.read(Path(path))
    config = parse_settings(text, MilterdConfig, file=str(path))
    problems = [Problem(str(path), 0, *each) for each in _disagreements(config)]
    problems += placed(row.problems(toml_file.tables(text)), text, file=str(path))
    if problems:
        raise ConfigError(problems)
    return config


def _disagreements(config: MilterdConfig) -> Iterator[tuple[str, str, str]]:
    """What no single key shows to be wrong: key, found, expected."""
    yield from _bad_metrics(config.metrics)
    yield from bad_names(config)
    used: dict[str, str] = {}
    for name in config.filter.present():
        address = str(config.address(name))
        if address in used:
            yield f"filter.{name}.socket", address, f"another one than filter.{used[address]} has"
        used[address] = name
    own = config.milterd
    if own.memory_total < own.header_limit + BLOCK:
        least = f"header_limit and {BLOCK} at least"
        yield "milterd.memory_total", str(own.memory_total), least
    if own.socket_group and not own.socket_group.isdecimal():
        try:
            grp.getgrnam(own.socket_group)
        except KeyError:
            yield "milterd.socket_group", repr(own.socket_group), "a group of this machine"
    if own.socket_owner and not own.socket_owner.isdecimal():
        try:
            pwd.getpwnam(own.socket_owner)
        except KeyError:
            yield "milterd.socket_owner", repr(own.socket_owner), "a user of this machine"
    if own.spool_directory is not None and not own.spool_directory.is_dir():
        yield "milterd.spool_directory", repr(str(own.spool_directory)), "a directory"


def bad_names(config: MilterdConfig) -> Iterator[tuple[str, str, str]]:
    """Filters of a postmaster's own that are called as one of ours: key, found, expected."""
    for name in config.filter.own.keys() & OURS:
        yield f"filter.own.{name}", f"{name!r}", "a name that no filter of ours has"


def _bad_metrics(settings: MetricsSettings) -> Iterator[tuple[str, str, str]]:
    if not settings.milterd:
        return
    try:
        metrics.check_address(sockets.parse(settings.milterd), settings.allow_remote)
    except ValueError as error:
        yield "metrics.milterd", repr(settings.milterd), str(error).removeprefix("expected ")
