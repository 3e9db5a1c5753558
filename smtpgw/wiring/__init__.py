"""From the settings to what each room is told.  Pure, but for reading certificates and
the file of myorigin.

Everything a postmaster wrote becomes a room's own options here and nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

from milterd.base import sockets
from milterd.base.toml_file import ConfigError, Problem
from milterd.core.mail import Direction
from smtpgw import peers
from smtpgw.addresses import Addresses
from smtpgw.chain.options import EditLimits, MilterOptions
from smtpgw.cleanup import MAIL_NAME, CleanupOptions
from smtpgw.config import Listener, Milter, Smtpgw
from smtpgw.config.addresses import Service
from smtpgw.config.reception import Reception
from smtpgw.config.types import parse_nameserver
from smtpgw.courier import CourierOptions
from smtpgw.delivery import nexthop
from smtpgw.delivery.hosts import HostOptions
from smtpgw.delivery.limits import LimitTable, ServiceLimits
from smtpgw.delivery.order import OrderOptions
from smtpgw.delivery.smtp import SmtpOptions
from smtpgw.delivery.windows import WindowOptions
from smtpgw.dns.resolver import DnsOptions
from smtpgw.door_tables import NO_TABLES, DoorTables
from smtpgw.dsn.report import DsnOptions, NoticeOptions
from smtpgw.edge.options import ContentOptions, EdgeOptions
from smtpgw.local.drop import Public
from smtpgw.local_mail import LocalPlan
from smtpgw.pickup import PickupOptions
from smtpgw.plan import Plan
from smtpgw.queue.committer import CommitterOptions
from smtpgw.queue.manager import ManagerOptions
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.sqlite import SqliteOptions
from smtpgw.tables import spec
from smtpgw.takeover import TakeoverOptions
from smtpgw.wiring import dialogue as wiring_dialogue
from smtpgw.wiring import limits as wiring_limits
from smtpgw.wiring import quarantine as wiring_quarantine
from smtpgw.wiring import sasl as wiring_sasl
from smtpgw.wiring import tls as wiring_tls

N = TypeVar("N", int, float)


def milters(settings: Smtpgw, listener: Listener) -> tuple[MilterOptions, ...]:
    """The milters of a listener, in the order of their tables."""
    wanted = None if listener.milters is None else set(listener.milters)
    if wanted is None and listener.profile == "internal":
        wanted = set()  # what comes back was judged when it came
    return tuple(_milter(each) for each in settings.milter if wanted is None or each.name in wanted)


def macros(settings: Smtpgw, listener: Listener) -> dict[str, bytes]:
    """What milters are told of a listener."""
    submission = listener.profile in ("submission", "submissions")
    return {
        "j": settings.hostname.encode(),
        "v": MAIL_NAME,
        "daemon_name": b"ORIGINATING" if submission else listener.name.encode(),
    }


def all_milters(settings: Smtpgw) -> tuple[MilterOptions, ...]:
    """Every milter, whoever asks it."""
    return tuple(_milter(each) for each in settings.milter)


def _milter(settings: Milter) -> MilterOptions:
    return MilterOptions(
        name=settings.name,
        address=settings.address,
        connect_timeout=settings.connect_timeout,
        command_timeout=settings.command_timeout,
        content_timeout=settings.content_timeout,
        total_timeout=settings.total_timeout,
        default_action=settings.default_action,
        listeners=frozenset(settings.listeners),
        directions=frozenset(Direction(each) for each in settings.directions),
        macro_daemon_name=settings.macro_daemon_name,
    )


def plan(
    settings: Smtpgw, listener: Listener, addresses: Addresses, *, stress: bool = False
) -> Plan:
    """The road of a listener's mail, usually or under stress."""
    reception = settings.reception(listener, stress=stress)
    return Plan(
        cleanup=CleanupOptions(
            myhostname=settings.hostname,
            hide_client=listener.hides_client,
            tls_header=reception.smtpd_tls_received_header,
            always_add_missing_headers=settings.always_add_missing_headers,
            authenticated_header=reception.smtpd_sasl_authenticated_header,
        ),
        addresses=addresses,
        policies=tuple(addresses.policies[listener.name, each] for each in (False, True)),
        milters=milters(settings, listener),
        macros=macros(settings, listener),
        limits=EditLimits(body_size=settings.message_size_limit),
        quarantine=wiring_quarantine.options(settings),
        clients=wiring_limits.clients(settings, reception, addresses),
        peername_lookup=reception.smtpd_peername_lookup,
    )


def _names(settings: Smtpgw) -> Iterator[str]:
    """The names in mydestination; what its tables hold is not looked through."""
    for each in spec.split(settings.expanded("mydestination")):
        if not each.startswith(("!", "/", ".")) and ":" not in each:
            yield each.lower()


def pickup(settings: Smtpgw, myorigin: str) -> PickupOptions:
    """The road of mail that is handed in on this machine; `myorigin` as it was read."""
    wanted = set(settings.non_smtpd_milters)
    own = (_milter(each) for each in settings.milter if each.name in wanted)
    return PickupOptions(
        directory=settings.queue.drop,
        public=Public(
            myorigin=myorigin,
            message_size_limit=settings.message_size_limit,
            header_size_limit=settings.header_size_limit,
            authorized_submit_users=settings.authorized_submit_users,
        ),
        local=LocalPlan(
            content=content(settings, settings),
            cleanup=CleanupOptions(myhostname=settings.hostname),
            milters=tuple(replace(each, listeners=frozenset()) for each in own),
            macros={
                "j": settings.hostname.encode(),
                "v": MAIL_NAME,
                "daemon_name": b"ORIGINATING",
            },
            limits=EditLimits(body_size=settings.message_size_limit),
            lifetime=settings.queue.maximal_queue_lifetime,
            quarantine=wiring_quarantine.options(settings),
        ),
    )


def content(settings: Smtpgw, reception: Reception) -> ContentOptions:
    """The limits on a message."""
    return ContentOptions(
        message_size_limit=settings.message_size_limit,
        header_size_limit=reception.header_size_limit,
        hopcount_limit=reception.hopcount_limit,
        bare_newline=reception.bare_newline,
        spool_directory=settings.queue.directory / "spool",
    )


def edge(settings: Smtpgw, listener: Listener, tables: DoorTables = NO_TABLES) -> EdgeOptions:
    """How a listener speaks SMTP.  Raises ConfigError for unusable certificates."""
    return edges(settings, listener, tables)[0]


def edges(
    settings: Smtpgw, listener: Listener, tables: DoorTables = NO_TABLES
) -> tuple[EdgeOptions, EdgeOptions]:
    """How it does usually, and under stress; with the same certificates.  Raises ConfigError."""
    door = wiring_tls.doorway(settings, listener, tables.server_names)
    usual, stressed = (
        _edge(settings, listener, tables, settings.reception(listener, stress=each), door)
        for each in (False, True)
    )
    return usual, stressed


def _edge(
    settings: Smtpgw,
    listener: Listener,
    tables: DoorTables,
    reception: Reception,
    door: wiring_tls.Doorway,
) -> EdgeOptions:
    return EdgeOptions(
        listener=listener.name,
        myhostname=settings.hostname,
        content=content(settings, reception),
        deadlines=wiring_limits.deadlines(reception),
        limits=wiring_limits.limits(settings, reception),
        tls=door.server,
        tls_required=door.required,
        tls_wrapper=door.wrapper,
        tls_certificate=door.certificate,
        tls_logged=reception.smtpd_tls_loglevel > 0,
        strict_rfc821_envelopes=reception.strict_rfc821_envelopes,
        banner=wiring_dialogue.banner(settings, listener, reception),
        dialogue=wiring_dialogue.dialogue(listener, reception, tables),
        upstream=wiring_dialogue.upstream(listener, reception, tables),
        etrn=bool(settings.expanded("fast_flush_domains")),
        helo_required=reception.smtpd_helo_required,
        soft_bounce=reception.soft_bounce,
    )


def schedule(settings: Smtpgw) -> ScheduleOptions:
    """When to try again."""
    queue = settings.queue
    return ScheduleOptions(
        minimal_backoff_time=queue.minimal_backoff_time,
        maximal_backoff_time=queue.maximal_backoff_time,
        maximal_queue_lifetime=queue.maximal_queue_lifetime,
        bounce_queue_lifetime=queue.bounce_queue_lifetime,
        delay_warning_time=queue.delay_warning_time,
    )


def store(settings: Smtpgw, shard: int) -> SqliteOptions:
    """How a shard is kept."""
    committer = CommitterOptions()
    return SqliteOptions(
        queue_minfree=settings.queue.queue_minfree,
        shard=shard,
        committer=committer,
        log=committer.checkpoint,
    )


def takeover(settings: Smtpgw) -> TakeoverOptions:
    """When other workers' shards are taken over."""
    return TakeoverOptions(
        directory=settings.queue.directory,
        workers=settings.workers,
        delay=settings.takeover_delay,
        patience=settings.stop_timeout,
    )


def manager(settings: Smtpgw) -> ManagerOptions:
    """How much is in delivery at once."""
    return ManagerOptions(qmgr_message_active_limit=settings.queue.qmgr_message_active_limit)


def courier(settings: Smtpgw) -> CourierOptions:
    """How destinations are treated."""
    services = {name: _limits(settings, row) for name, row in settings.services.items()}
    return CourierOptions(
        limits=LimitTable(_limits(settings, Service()), services),
        dsn=dsn(settings),
        soft_bounce=settings.soft_bounce,
    )


def _limits(settings: Smtpgw, row: Service) -> ServiceLimits:
    """The limits of a row; what it does not say is as for all others."""
    delivery = settings.delivery
    delay = _or(row.destination_rate_delay, delivery.default_destination_rate_delay)
    limit = _or(row.destination_concurrency_limit, delivery.default_destination_concurrency_limit)
    start = _or(row.initial_destination_concurrency, delivery.initial_destination_concurrency)
    return ServiceLimits(
        windows=WindowOptions(
            # What pauses between two deliveries has one at once (qmgr(8)).
            initial_destination_concurrency=1 if delay else start,
            limit=1 if delay else limit,
            positive_feedback=delivery.default_destination_concurrency_positive_feedback,
            negative_feedback=delivery.default_destination_concurrency_negative_feedback,
            failed_cohort_limit=delivery.default_destination_concurrency_failed_cohort_limit,
            rest=settings.queue.minimal_backoff_time,
        ),
        recipient_limit=_or(
            row.destination_recipient_limit, delivery.default_destination_recipient_limit
        ),
        destination_rate_delay=delay,
        transport_rate_delay=_or(row.transport_rate_delay, delivery.default_transport_rate_delay),
    )


def _or(own: N | None, usual: N) -> N:
    return usual if own is None else own


def dsn(settings: Smtpgw) -> DsnOptions:
    """What senders and the postmaster are told."""
    bounce = settings.bounce
    return DsnOptions(
        myhostname=settings.hostname,
        bounce_size_limit=bounce.bounce_size_limit,
        confirm_delay_cleared=bounce.confirm_delay_cleared,
        lmtp_assume_final=bounce.lmtp_assume_final,
        notices=NoticeOptions(
            notify_classes=frozenset(bounce.notify_classes),
            bounce_notice_recipient=bounce.bounce_notice_recipient,
            twobounce_notice_recipient=bounce.twobounce_notice_recipient,
            delay_notice_recipient=bounce.delay_notice_recipient,
            error_notice_recipient=bounce.error_notice_recipient,
            double_bounce_sender=bounce.double_bounce_sender,
        ),
    )


def dns(settings: Smtpgw) -> DnsOptions:
    """Whom to ask for names."""
    return DnsOptions(
        nameservers=tuple(parse_nameserver(each) for each in settings.dns.nameservers),
        try_timeout=settings.dns.try_timeout,
        query_timeout=settings.dns.query_timeout,
        min_ttl=settings.dns.min_ttl,
        max_ttl=settings.dns.max_ttl,
        cache=settings.dns.cache_size,
    )


def hosts(settings: Smtpgw) -> HostOptions:
    """How a nexthop becomes hosts, and which of them are ourselves."""
    delivery = settings.delivery
    listening = [sockets.parse(each.address) for each in settings.listener]
    # Those we listen at, like all of the machine's own, are known without being told.
    ours = (*settings.proxy_interfaces, *settings.local_addresses)
    return HostOptions(
        names=frozenset({settings.hostname.lower(), *_names(settings)}),
        addresses=frozenset(map(ip_address, ours)),
        ports=frozenset({25, *(each.port for each in listening)}),
        smtp_tcp_port=delivery.smtp_tcp_port,
        inet_protocols=delivery.inet_protocols,
        smtp_dns_support_level=delivery.smtp_dns_support_level,
        smtp_host_lookup=delivery.smtp_host_lookup,
        ignore_mx_lookup_error=delivery.ignore_mx_lookup_error,
        smtp_defer_if_no_mx_address_found=delivery.smtp_defer_if_no_mx_address_found,
        smtp_mx_refuse_addresses=frozenset(delivery.smtp_mx_refuse_addresses),
        mail_timeout=settings.dns.mail_timeout,
        order=OrderOptions(
            smtp_address_preference=delivery.smtp_address_preference,
            smtp_balance_inet_protocols=delivery.smtp_balance_inet_protocols,
            smtp_randomize_addresses=delivery.smtp_randomize_addresses,
            smtp_mx_address_limit=delivery.smtp_mx_address_limit,
        ),
    )


def smtp(settings: Smtpgw) -> SmtpOptions:
    """How its hosts are tried."""
    delivery = settings.delivery
    return SmtpOptions(
        relayhost=_relayhost(settings),
        smtp_fallback_relay=tuple(
            each for text in delivery.smtp_fallback_relay for each in nexthop.parse(text)
        ),
        smtp_mx_session_limit=delivery.smtp_mx_session_limit,
        smtp_process_limit=delivery.smtp_process_limit,
    )


def _relayhost(settings: Smtpgw) -> str:
    with contextlib.suppress(ValueError):  # whoever opens the tables tells of it
        found = settings.expanded("relayhost")
        if found:
            return found
    return settings.delivery.default.partition(":")[2]


def check(settings: Smtpgw) -> None:
    """Make everything that can be made without opening anything.  Raises ConfigError."""
    problems: list[Problem] = []
    for each in settings.listener:
        try:
            edge(settings, each)
            wiring_sasl.judge(settings, each)
            wiring_sasl.mechanisms(settings, each)
            sockets.parse(each.address)
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            where = f"listener {each.name}"
            problems.append(Problem("settings", 0, where, str(error), "usable values"))
    problems += peers.problems(settings)
    problems += wiring_limits.problems(settings)
    if problems:
        raise ConfigError(problems)
