"""The settings of [filter.attachments]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from milterd.base.fields import Duration, Kind, Size
from milterd.base.settings import Table
from milterd.config_filter import FilterTable, Outcomes, Socket
from milterd.core.mail import Direction
from milterd.filters.attachment_options import NOTE, OUTCOMES, AttachmentsOptions, Reach
from milterd.filters.virus_policy import Action, Outcome
from milterd.host.seam import HostKind
from milterd.ports.attached.found import Limits
from milterd.signed.keep import OnSigned


def _no_wait(action: Action) -> Action:
    if action is Action.WAIT:
        raise ValueError("expected another action: waiting changes no attachment")
    return action


_ACTIONS = ", ".join(f'"{each.value}"' for each in Action if each is not Action.WAIT)
Act = Annotated[Action, AfterValidator(_no_wait), Kind(_ACTIONS)]


class AttachmentOutcomes(Table):
    """Actions by outcome, where they differ from those in [filter.attachments]."""

    encrypted: Act | None = Field(
        default=None,
        description="an archive or document is encrypted; without this key, as unscannable",
        examples=[Action.QUARANTINE],
    )
    unscannable: Act | None = Field(
        default=None,
        description="an archive is damaged, of a kind that cannot be listed (7z, rar, cab), too "
        "deep, or holds too many files; or the mail has too many parts, or is a piece of one",
        examples=[Action.QUARANTINE],
    )
    too_large: Act | None = Field(
        default=None, description="over max_size, or over max_unpacked", examples=[Action.REJECT]
    )
    too_slow: Act | None = Field(
        default=None,
        description="not done in time; without this key, as unavailable",
        examples=[Action.TEMPFAIL],
    )
    unavailable: Act | None = Field(
        default=None,
        description="the process that looks into files ended or failed",
        examples=[Action.TEMPFAIL],
    )

    def actions(self) -> Mapping[Outcome, Action]:
        """What is set."""
        found = {each: getattr(self, each.value) for each in OUTCOMES}
        return {outcome: action for outcome, action in found.items() if action is not None}


def _like(name: str, default: Action | None) -> Any:
    return Field(
        default=default,
        description=AttachmentOutcomes.model_fields[name].description,
        examples=AttachmentOutcomes.model_fields[name].examples,
    )


class AttachmentsSettings(FilterTable):
    """Files that come with mail, by name, type and content, also in archives."""

    socket: Socket = Field(
        default="unix:attachments.sock", description=FilterTable.model_fields["socket"].description
    )
    host: HostKind = Field(
        default=HostKind.NATIVE, description=FilterTable.model_fields["host"].description
    )
    threads: int = Field(
        default=16, ge=1, le=256, description="mails looked at at a time by a native host's process"
    )
    rules: str = Field(default="attachments", description="the rule file, without .toml")
    rules_directory: Path | None = Field(
        default=None,
        description="where rule files of your own are; those that come with Gatepost are found too",
        examples=["/etc/gatepost/rules"],
    )
    encrypted: Act | None = _like("encrypted", None)
    unscannable: Act = _like("unscannable", Action.TAG)
    too_large: Act = _like("too_large", Action.REJECT)
    too_slow: Act | None = _like("too_slow", None)
    unavailable: Act = _like("unavailable", Action.TEMPFAIL)
    inbound: AttachmentOutcomes = Field(
        default=AttachmentOutcomes(), description="Actions for mail that comes in."
    )
    originating: AttachmentOutcomes = Field(
        default=AttachmentOutcomes(), description="Actions for mail of our own users."
    )
    on_signed: OnSigned = Field(
        default=OnSigned.FORCE,
        description='what "strip" does where a signature covers the body: take the file out and '
        "break it, leave the file in and mark the mail, or refuse the mail",
    )
    note: str = Field(
        default=NOTE, description="the text in the place of what was taken out, before the names"
    )
    max_size: Size = Field(
        default=26_214_400, description="larger messages are too_large, and not looked at"
    )
    max_parts: int = Field(default=1000, ge=1, le=10000, description="parts of a message")
    max_unpacked: Size = Field(
        default=104_857_600,
        description="of one attachment, unpacked or as its archives declare",
    )
    max_members: int = Field(
        default=2000, ge=1, le=100_000, description="files in the archives of one attachment"
    )
    max_depth: int = Field(default=5, ge=1, le=20, description="archives within archives")
    timeout: Duration = Field(default=30.0, gt=0, description="for a whole message")
    workers: int = Field(
        default=2, ge=1, le=64, description="processes that look into archives and documents"
    )
    worker_memory: Size = Field(
        default=1_073_741_824,
        ge=268_435_456,
        description="address space of each; an attachment that needs more is too_large",
    )

    def outcomes(self) -> Outcomes:
        """See :meth:`FilterTable.outcomes`."""
        rows = self.options().matrix.table()[1:]
        return [(what, inbound, originating) for what, inbound, originating in rows]

    def options(self) -> AttachmentsOptions:
        """For the filter."""
        general = {each: getattr(self, each.value) for each in OUTCOMES}
        directions = {
            Direction.INBOUND: self.inbound.actions(),
            Direction.ORIGINATING: self.originating.actions(),
        }
        return AttachmentsOptions(
            rules=self.rules,
            directory=self.rules_directory,
            general={each: action for each, action in general.items() if action is not None},
            directions={each: row for each, row in directions.items() if row},
            limits=Limits(self.max_unpacked, self.max_members, self.max_depth, self.worker_memory),
            reach=Reach(self.max_size, self.max_parts, self.timeout),
            workers=self.workers,
            on_signed=self.on_signed,
            note=self.note,
        )
