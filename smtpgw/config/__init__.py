"""The gateway's half of gatepost.toml, as a postmaster writes it.

Names and meanings are Postfix's where Postfix has the setting (postconf(5)).
This is only the boundary: :mod:`smtpgw.wiring` makes the rooms' own options of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from milterd.base import row, settings, toml_file
from milterd.base.fields import Days, Duration, Hours, Size
from milterd.base.toml_file import ConfigError
from smtpgw import queue_place
from smtpgw.config.addresses import Addresses, Service, written
from smtpgw.config.bounce import Bounce
from smtpgw.config.decisions import Decisions
from smtpgw.config.delivery import Dns
from smtpgw.config.dialogue import Peers, TlsPeer, TlsPolicy
from smtpgw.config.limits import Counting
from smtpgw.config.names import problems as name_problems
from smtpgw.config.policy_service import Greylist, PolicyListener, Throttle
from smtpgw.config.quarantine import Quarantine
from smtpgw.config.reception import (
    Overrides,
    Profile,
    Reception,
    Stress,
    expandable,
    resolved,
)
from smtpgw.config.types import Address, Destination, Domain, IpAddress, MilterAddress, Name
from smtpgw.config.verify import Verification


class Listener(Overrides):
    """Where the gateway listens, and for whom.  Every key of [smtpgw] about reception may stand
    here too, for this listener alone, as with -o in master.cf."""

    name: Name = Field(
        description="its name in log, metrics, socket activation and other settings",
        examples=["mx"],
    )
    address: Address = Field(
        description='"host:port", "[v6]:port" or "inet:port@host"', examples=["0.0.0.0:25"]
    )
    profile: Profile = Field(
        default="mx",
        description='"mx" takes mail from anybody for our own domains; "submission" takes mail '
        "of our own users only, for anywhere the gateway can deliver to, and nothing before "
        'STARTTLS; "submissions" the same with TLS from the first octet; "internal" takes back '
        'mail from mynetworks, and asks no milters that it does not name; "lmtp" speaks LMTP '
        "(RFC 2033)",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="certificate chain in PEM; with tls_key it offers STARTTLS",
        examples=["/etc/gatepost/tls/fullchain.pem"],
    )
    tls_key: Path | None = Field(
        default=None,
        description="the certificate's private key in PEM",
        examples=["/etc/gatepost/tls/key.pem"],
    )
    hide_client: bool | None = Field(
        default=None,
        description="leave the client's name and address out of the Received field of mail our own "
        "users send; without this key, submission listeners do",
        examples=[True],
    )
    milters: tuple[Name, ...] | None = Field(
        default=None,
        description="names of the milters this listener asks, in the order of their tables; "
        "without this key, all of them",
        examples=[["clamav"]],
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Listener:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("expected both tls_cert and tls_key, or neither")
        return self

    @property
    def hides_client(self) -> bool:
        """Whether our trace of originating mail leaves out where it came from."""
        submission = self.profile in ("submission", "submissions")
        return submission if self.hide_client is None else self.hide_client


class Milter(settings.Table):
    """A milter, ours or anybody's, asked in the order of these tables."""

    name: Name = Field(description="its name in log and metrics", examples=["clamav"])
    address: MilterAddress = Field(
        description='"unix:/path" or "inet:port@host"; "filter:NAME" is the filter of this '
        "file's [filter.NAME], which each worker runs itself: no milterd and no socket between",
        examples=["unix:/var/spool/postfix/milterd/clamav.sock"],
    )
    connect_timeout: Duration = Field(
        default=30.0, gt=0, description="to connect (milter_connect_timeout)"
    )
    command_timeout: Duration = Field(
        default=30.0, gt=0, description="for an answer to a command (milter_command_timeout)"
    )
    content_timeout: Duration = Field(
        default=300.0, gt=0, description="for an answer to the content (milter_content_timeout)"
    )
    total_timeout: Duration = Field(
        default=600.0,
        gt=0,
        description="for a whole message, however often the milter asks for patience",
    )
    default_action: Literal["accept", "reject", "tempfail", "quarantine", "shutdown"] = Field(
        default="tempfail",
        description="what happens to mail when the milter fails (milter_default_action)",
    )
    listeners: tuple[Name, ...] = Field(
        default=(), description="listeners whose mail it sees; empty means all"
    )
    directions: tuple[Literal["inbound", "originating"], ...] = Field(
        default=("inbound", "originating"), min_length=1, description="which mail it sees"
    )
    macro_daemon_name: str = Field(
        default="",
        description="what this milter is told as {daemon_name}; empty means the listener's: "
        "ORIGINATING for submission, the listener's name otherwise",
    )


Named = Listener | PolicyListener | Milter


class Queue(settings.Table):
    """The queue on disk, and how long mail may stay in it (qmgr(8))."""

    directory: Path = Field(default=queue_place.DEFAULT, description="where the queue is kept")
    drop_directory: Path | None = Field(
        default=None,
        description="where sendmail leaves mail of this machine; without this key, drop in the "
        "queue's directory, which every user may pass through then",
        examples=["/var/spool/gatepost"],
    )
    minimal_backoff_time: Duration = Field(
        default=300.0, gt=0, description="least time between attempts"
    )
    maximal_backoff_time: Duration = Field(
        default=4000.0, gt=0, description="greatest time between attempts"
    )
    maximal_queue_lifetime: Days = Field(
        default=432000.0, description="when mail is returned to its sender as undeliverable"
    )
    bounce_queue_lifetime: Days = Field(
        default=432000.0, description="the same for mail from the null sender"
    )
    delay_warning_time: Hours = Field(
        default=0.0, description="when the sender is told of a delay; 0 means never"
    )
    queue_minfree: Size = Field(
        default=41943040,
        description="octets that stay free on the queue's device; mail is refused with 452 below "
        "that.  Keep it at 1.5 times message_size_limit",
    )
    qmgr_message_active_limit: int = Field(
        default=500, ge=1, description="mails in delivery at once, for each worker"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Queue:
        if self.minimal_backoff_time > self.maximal_backoff_time:
            raise ValueError("expected minimal_backoff_time no longer than maximal_backoff_time")
        return self

    @property
    def drop(self) -> Path:
        """Where mail of this machine is handed in."""
        return self.drop_directory or self.directory / "drop"


class Smtpgw(Addresses, Reception, Counting, Verification):
    """The gateway.  Names are Postfix's, see postconf(5)."""

    local_addresses: tuple[IpAddress, ...] = Field(
        default=(),
        description="our own addresses, mail for whose literals (u@[192.0.2.1]) is taken too",
    )
    proxy_interfaces: tuple[IpAddress, ...] = Field(
        default=(),
        description="addresses by which this machine is reached and that it does not have "
        "itself: mail that would go there loops",
    )
    message_size_limit: Size = Field(
        default=26214400, ge=1024, description="octets of a message, header included"
    )
    always_add_missing_headers: bool = Field(
        default=False,
        description="add a missing Date and Message-ID to mail of strangers too; mail that our own "
        "users send gets them in any case",
    )
    authorized_submit_users: tuple[str, ...] = Field(
        default=("static:anyone",),
        description='login names that may hand in mail with sendmail; "!name" may not, '
        '"static:anyone" is everybody, the first that fits decides',
    )
    non_smtpd_milters: tuple[Name, ...] = Field(
        default=(),
        description="names of the milters that see mail handed in with sendmail, which came "
        "from no listener",
        examples=[["dkim"]],
    )
    default_process_limit: int = Field(
        default=1000, ge=1, description="connections to one worker at once"
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=100,
        description="worker processes, each with its own part of the queue; one for each core "
        "is enough",
    )
    worker_cpu_affinity: bool = Field(
        default=False,
        description="keep each worker to a processor of its own, where there are as many workers "
        "as processors",
    )
    stop_timeout: Duration = Field(
        default=20.0,
        description="how long sessions and deliveries may go on after SIGTERM",
    )
    service_throttle_time: Duration = Field(
        default=60.0,
        gt=0,
        description="longest pause before a worker that keeps ending is started again",
    )
    takeover_delay: Duration = Field(
        default=5.0,
        description="how long a worker may be gone until another one delivers what is in its part "
        "of the queue",
    )
    define: dict[Name, str] = Field(
        default={},
        description="Names of your own: `$name` stands for their text, and those that "
        "smtpd_restriction_classes lists are restriction lists.",
        examples=[{"mua_sender_restrictions": "permit_sasl_authenticated, reject"}],
    )
    stress: Stress = Stress()
    listener: tuple[Listener, ...] = Field(default=(), description="Where the gateway listens.")
    policy_listener: tuple[PolicyListener, ...] = Field(
        default=(),
        description="Where Postfix may ask us: its check_policy_service, answered by our "
        "restrictions.",
    )
    greylist: Greylist = Greylist()
    throttle: dict[Name, Throttle] = Field(
        default={},
        description="Limits, by the name that `check_throttle` knows them by.",
        examples=[{"outgoing": {"key": "sasl_user", "limit": 200, "per": "1h"}}],
    )
    milter: tuple[Milter, ...] = Field(
        default=(), description="Milters, asked in the order of these tables."
    )
    queue: Queue = Queue()
    delivery: Peers = Peers()
    bounce: Bounce = Bounce()
    dns: Dns = Dns()
    decisions: Decisions = Decisions()
    quarantine: Quarantine = Quarantine()
    services: dict[Name, Service] = Field(
        default={},
        description="Transports with names of their own, and limits of those that are there, as in "
        "master.cf; transport_maps and the like may name them.",
        examples=[{"slow": {"deliver": "smtp", "destination_rate_delay": "1s"}}],
    )
    transport: dict[Domain, Destination] = Field(
        default={},
        description="Destinations by domain, after transport_maps; a leading dot means the "
        "subdomains (transport(5)).",
        examples=[{"example.net": "lmtp:unix:/run/dovecot/lmtp"}],
    )
    tls_policy: dict[TlsPeer, TlsPolicy] = Field(
        default={},
        description="TLS by nexthop, before the level for all (smtp_tls_policy_maps): a level, "
        "then match=, protocols= and servername=; a leading dot means the subdomains of a domain.",
        examples=[{"example.net": "secure match=mx.example.net:.example.net"}],
    )

    @field_validator("listener", "policy_listener", "milter")
    @classmethod
    def _unique(cls, value: tuple[Named, ...]) -> tuple[Named, ...]:
        names = [each.name for each in value]
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise ValueError(f"expected every name once, not {', '.join(twice)} twice")
        return value

    @model_validator(mode="after")
    def _known(self) -> Smtpgw:
        milters = {each.name for each in self.milter}
        listeners = {each.name for each in self.listener}
        twice = sorted(listeners.intersection(each.name for each in self.policy_listener))
        if twice:
            raise ValueError(f"expected other names for policy listeners than {', '.join(twice)}")
        for one in self.listener:
            _only(milters, one.milters or (), f"listener {one.name}: milters", "milter")
        _only(milters, self.non_smtpd_milters, "non_smtpd_milters", "milter")
        for each in self.milter:
            _only(listeners, each.listeners, f"milter {each.name}: listeners", "listener")
        if self.message_size_limit < self.header_size_limit:
            raise ValueError("expected message_size_limit above header_size_limit")
        return self

    @property
    def filters_inside(self) -> tuple[str, ...]:
        """The filters that each worker runs itself."""
        inside = [each.address for each in self.milter if each.address.startswith(row.INSIDE)]
        return tuple(dict.fromkeys(each.removeprefix(row.INSIDE) for each in inside))

    @property
    def listening(self) -> tuple[Listener | PolicyListener, ...]:
        """Everything that needs a socket."""
        return (*self.listener, *self.policy_listener)

    def reception(self, listener: Listener, *, stress: bool = False) -> Reception:
        """What a listener goes by, usually or under stress.  Raises pydantic.ValidationError
        where keys do not go together."""
        return resolved(self, listener.profile, listener, self.stress if stress else None)

    def parameters(
        self, reception: Reception | None = None, *, stress: bool = False
    ) -> dict[str, str]:
        """What `$name` may stand for, in a listener that goes by `reception`."""
        own = {
            "queue_directory": str(self.queue.directory),
            "double_bounce_sender": self.bounce.double_bounce_sender,
            "stress": "yes" if stress else "",
        }
        return (
            dict(self.define)
            | written(reception or self, expandable(Reception))
            | written(self, Verification.model_fields)
            | super().parameters()
            | own
        )


def _only(known: set[str], used: tuple[str, ...], where: str, kind: str) -> None:
    unknown = sorted(set(used) - known)
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise ValueError(f"{where}: no {kind} is called {unknown[0]!r} (there are: {names})")


class GatewaySettings(settings.CommonSettings):
    """What `smtpgw` reads of gatepost.toml."""

    smtpgw: Smtpgw = Smtpgw()


class Loaded(GatewaySettings):
    """The same, and for the filters that workers run themselves what the file says of those."""

    filters: str = ""


def load(path: str | Path) -> Loaded:
    """The settings in a file.  Raises :class:`milterd.base.toml_file.ConfigError`."""
    return parse(toml_file.read(Path(path)), file=str(path))


def parse(text: str, *, file: str = "settings") -> Loaded:
    """The same, from the text of a file."""
    found = settings.parse(text, GatewaySettings, file=file)
    tables = toml_file.tables(text)
    problems = [*name_problems(found.smtpgw), *row.unknown(tables), *row.problems(tables)]
    if problems:
        raise ConfigError(settings.placed(problems, text, file=file))
    filters = ""
    if found.smtpgw.filters_inside:
        from milterd import inside

        filters = inside.settings(text, file=file)
    return Loaded(**dict(found), filters=filters)
