"""The settings of [filter.clamav]."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from milterd.base.fields import Duration, Kind, Size
from milterd.base.settings import Table
from milterd.config_filter import FilterTable, Outcomes, Socket
from milterd.core.mail import Direction
from milterd.filters.clamav import ClamavOptions
from milterd.filters.virus_policy import WAITABLE, Action, Exempt, Outcome
from milterd.host.seam import HostKind
from milterd.ports.thorough import MemoryOptions, ReadingOptions


def _listed(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _entry(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if not at or not domain or "@" in local or any(each.isspace() for each in text):
        raise ValueError('expected an address such as "u@example.net", or "@example.net"')
    return text.lower()


Sockets = Annotated[tuple[Socket, ...], BeforeValidator(_listed), Kind("address or list of them")]
Entry = Annotated[str, AfterValidator(_entry), Kind("address or @domain")]
OutcomeName = Literal[
    "infected", "phishing", "pua", "heuristic", "encrypted", "unscannable", "too_large", "too_slow",
    "unavailable",
]  # fmt: skip
SignatureClass = Literal["phishing", "pua", "heuristic", "encrypted", "infected"]


def _no_wait(action: Action | None) -> Action | None:
    if action in (Action.WAIT, Action.HOLD):
        names = " and ".join(sorted(each.value for each in WAITABLE))
        raise ValueError(f"expected another action: only {names} can be waited for")
    return action


NoWait = Annotated[Action, AfterValidator(_no_wait)]


class OutcomeActions(Table):
    """Actions by outcome, where they differ from those in [filter.clamav]."""

    infected: NoWait | None = Field(
        default=None,
        description="a signature matched",
        examples=[Action.QUARANTINE],
    )
    phishing: NoWait | None = Field(
        default=None,
        description="a signature of phishing; without this key, as infected",
        examples=[Action.TAG],
    )
    pua: NoWait | None = Field(
        default=None,
        description="a potentially unwanted application; without this key, as infected",
        examples=[Action.TAG],
    )
    heuristic: NoWait | None = Field(
        default=None,
        description="another finding of clamd's heuristics; without this key, as infected",
        examples=[Action.QUARANTINE],
    )
    encrypted: NoWait | None = Field(
        default=None,
        description="an archive or document that is encrypted (clamd needs AlertEncrypted yes); "
        "without this key, as unscannable",
        examples=[Action.QUARANTINE],
    )
    unscannable: NoWait | None = Field(
        default=None,
        description="a limit was reached, or it is a piece of a message",
        examples=[Action.QUARANTINE],
    )
    too_large: NoWait | None = Field(
        default=None,
        description="over max_size",
        examples=[Action.REJECT],
    )
    too_slow: Action | None = Field(
        default=None,
        description="no answer in time; without this key, as unavailable",
        examples=[Action.TEMPFAIL],
    )
    unavailable: Action | None = Field(
        default=None,
        description="no clamd answers",
        examples=[Action.TEMPFAIL],
    )

    def actions(self) -> Mapping[Outcome, Action]:
        """What is set."""
        found = {each: getattr(self, each.value) for each in Outcome}
        return {outcome: action for outcome, action in found.items() if action is not None}


def _like(name: str) -> Any:
    """The key of the same name and meaning."""
    field = OutcomeActions.model_fields[name]
    return Field(default=None, description=field.description, examples=field.examples)


class ClamavSettings(FilterTable):
    """Virus scanning by clamd."""

    socket: Socket = Field(
        default="unix:clamav.sock", description=FilterTable.model_fields["socket"].description
    )
    host: HostKind = Field(
        default=HostKind.NATIVE, description=FilterTable.model_fields["host"].description
    )
    threads: int = Field(
        default=100,  # as many as Postfix has clients, unless told otherwise
        ge=1,
        le=256,
        description="mails at a time of a native host's process that are large, in doubt, or wait "
        "for a clamd that does not answer: other mail needs no thread",
    )
    clamd: Sockets = Field(
        default=("unix:/run/clamav/clamd.ctl",),
        min_length=1,
        description="where clamd listens, several in the order they are asked; a message goes "
        'there as a descriptor by "unix:", and as a stream by "inet:"',
    )
    timeout: Duration = Field(
        default=120.0, gt=0, description="for a whole scan, by whichever clamd"
    )
    retry: Duration = Field(
        default=60.0, ge=1, description="longest time for which a clamd that fails is left alone"
    )
    wait_time: Duration = Field(
        default=150.0,
        ge=0,
        description='for how long a mail whose action is "wait" is tried again before it is put '
        "off; with timeout less than the MTA's limit (milter_content_timeout, 300s)",
    )
    max_size: Size = Field(
        default=26_214_400,
        description="larger messages are not scanned; keep it under clamd's MaxFileSize and "
        "StreamMaxLength, above which clamd calls a file clean that it has not seen",
    )
    infected: NoWait = Field(default=Action.REJECT, description="a signature matched")
    unscannable: NoWait = Field(
        default=Action.TEMPFAIL,
        description="a limit of clamd was reached, something is encrypted, or it is a piece of a "
        "message",
    )
    too_large: NoWait = Field(default=Action.REJECT, description="over max_size")
    unavailable: Action = Field(
        default=Action.TEMPFAIL, description="clamd is down, slow or unintelligible"
    )
    phishing: NoWait | None = _like("phishing")
    pua: NoWait | None = _like("pua")
    heuristic: NoWait | None = _like("heuristic")
    encrypted: NoWait | None = _like("encrypted")
    too_slow: Action | None = _like("too_slow")
    inbound: OutcomeActions = Field(
        default=OutcomeActions(), description="Actions for mail that comes in."
    )
    originating: OutcomeActions = Field(
        default=OutcomeActions(), description="Actions for mail of our own users."
    )
    domain: dict[str, OutcomeActions] = Field(
        default={},
        description="Actions for mail to a domain of ours, or from one; where the recipients' "
        "domains differ, the strictest action counts.",
        examples=[{"example.net": {"encrypted": "quarantine"}}],
    )
    signature_classes: dict[str, SignatureClass] = Field(
        default={},
        description="What signatures mean by their names, before the usual meanings: PUA.* is pua, "
        "Heuristics.Phishing.*, Phishing.* and *.Phishing.* are phishing, Heuristics.Encrypted.* "
        "is encrypted, other Heuristics.* are heuristic, and all else is infected.",
        examples=[{"*.Spam.*": "phishing"}],
    )
    text: dict[OutcomeName, str] = Field(
        default={},
        description="Replies of your own by outcome, with @SIGNATURE@, @OUTCOME@ and @DETAIL@.",
        examples=[{"infected": "Refused: @SIGNATURE@, see https://example.net/virus"}],
    )
    ignore_signatures: tuple[str, ...] = Field(
        default=(),
        description="names, with * in them, of signatures whose findings count as clean.  clamd "
        "tells one finding of a mail only: a local.ign2 beside its signatures is the better place",
        examples=[["PUA.Win.Packer.*"]],
    )
    exempt_senders: tuple[Entry, ...] = Field(
        default=(), description="senders of our own users' mail that is not scanned"
    )
    exempt_recipients: tuple[Entry, ...] = Field(
        default=(), description="a mail is not scanned if all its recipients are among these"
    )
    readings: Literal["one", "doubtful", "all"] = Field(
        default="doubtful",
        description="where the MIME of a mail can be read in several ways, scan what each reader "
        'would find as well; "all" does so for every mail, "one" leaves it to clamd',
    )
    readings_limit: int = Field(
        default=2000,
        ge=1,
        description="things in one mail that are scanned for that; one with more is unscannable",
    )
    remember_clean: int = Field(
        default=0,
        ge=0,
        description="clean mails that are known again while the signatures are the same; 0: none",
    )
    remember_time: Duration = Field(default=600.0, gt=0, description="how long they are known")
    oldest_signatures: Duration = Field(
        default=259_200.0,
        gt=0,
        description="age of clamd's signatures from which `milterd check` and the log warn",
    )
    header: bool = Field(default=True, description="add X-Virus-Scanned")
    hostname: str = Field(
        default="", description="the name in X-Virus-Scanned; empty means this machine's"
    )

    def outcomes(self) -> Outcomes:
        """See :meth:`FilterTable.outcomes`."""
        rows = self.options().matrix.table()[1:]
        return [(what, inbound, originating) for what, inbound, originating in rows]

    def options(self) -> ClamavOptions:
        """For the filter."""
        others = {
            Outcome.PHISHING: self.phishing,
            Outcome.PUA: self.pua,
            Outcome.HEURISTIC: self.heuristic,
            Outcome.ENCRYPTED: self.encrypted,
            Outcome.TOO_SLOW: self.too_slow,
        }
        directions = {
            Direction.INBOUND: self.inbound.actions(),
            Direction.ORIGINATING: self.originating.actions(),
        }
        return ClamavOptions(
            clamd=self.clamd,
            timeout=self.timeout,
            retry=self.retry,
            wait_time=self.wait_time,
            max_size=self.max_size,
            infected=self.infected,
            unscannable=self.unscannable,
            too_large=self.too_large,
            unavailable=self.unavailable,
            others={outcome: action for outcome, action in others.items() if action is not None},
            directions={each: row for each, row in directions.items() if row},
            domains={name.lower().encode(): row.actions() for name, row in self.domain.items()},
            classes=tuple((name, Outcome(each)) for name, each in self.signature_classes.items()),
            ignored=self.ignore_signatures,
            exempt=Exempt(_octets(self.exempt_senders), _octets(self.exempt_recipients)),
            readings=ReadingOptions(
                self.readings, self.readings_limit, 4 * self.max_size, timeout=self.timeout
            ),
            memory=MemoryOptions(self.remember_clean, self.remember_time),
            texts={Outcome(name): text for name, text in self.text.items()},
            oldest=self.oldest_signatures,
            header=self.header,
            hostname=self.hostname or socket.gethostname(),
        )


def _octets(entries: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(each.encode() for each in entries)
