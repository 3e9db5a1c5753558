"""The table [filter.headers]: rule sets, and Postfix's header and body checks."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from milterd.base.fields import Duration, Size
from milterd.config_filter import FilterTable, Outcomes, Socket
from milterd.config_signed import SignedSettings
from milterd.filters.header_checks.options import ChecksOptions
from milterd.filters.header_checks.walk import Bounds
from milterd.filters.headers import HeadersOptions, OnTimeout
from milterd.host.seam import HostKind
from milterd.signed.keep import OnSigned


def _table(text: str) -> str:
    kind, colon, name = text.partition(":")
    if kind not in ("regexp", "pcre") or not colon or not name:
        raise ValueError('expected "regexp:/file" or "pcre:/file"')
    return text


Tables = tuple[Annotated[str, AfterValidator(_table)], ...]


class HeadersSettings(SignedSettings, FilterTable):
    """Header rules from rule files."""

    socket: Socket = Field(
        default="unix:headers.sock", description=FilterTable.model_fields["socket"].description
    )
    host: HostKind = Field(
        default=HostKind.NATIVE, description=FilterTable.model_fields["host"].description
    )
    rules: tuple[str, ...] = Field(
        default=("submission-privacy", "inbound-hygiene"),
        description="rule sets, in the order they run",
    )
    rules_directory: Path | None = Field(
        default=None,
        description="where rule sets of your own are; those that come with Gatepost are found too",
        examples=["/etc/gatepost/rules"],
    )
    authserv_id: str = Field(
        default="",
        description="our name in Authentication-Results, which nobody else may use; empty means "
        "this machine's",
    )
    hostname: str = Field(
        default="",
        description="the name of our submission server in Received; empty means this machine's",
    )
    parameters: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="what else @NAME@ stands for in rules"
    )
    match_time: Duration = Field(
        default=0.1, gt=0, description="for one pattern on one header field"
    )
    mail_time: Duration = Field(default=1.0, gt=0, description="for all rules on one mail")
    on_timeout: OnTimeout = Field(
        default=OnTimeout.SKIP, description="pass over a rule that takes longer, or tempfail"
    )
    edits_limit: int = Field(
        default=100, ge=1, description="a mail that needs more changes is refused"
    )

    header_checks: Tables = Field(
        default=(),
        description="Postfix's tables for the mail's own header, regexp: or pcre:, in order; "
        "docs/headers.md tells what a milter can do of their actions",
        examples=[["regexp:/etc/postfix/header_checks"]],
    )
    mime_header_checks: Tables | None = Field(
        default=None,
        description="for MIME fields and the headers of parts; those of header_checks unless set",
        examples=[[]],
    )
    nested_header_checks: Tables | None = Field(
        default=None,
        description="for headers of attached messages; those of header_checks unless set",
        examples=[[]],
    )
    body_checks: Tables = Field(
        default=(),
        description="for all other lines",
        examples=[["pcre:/etc/postfix/body_checks"]],
    )
    checks_on_signed: OnSigned = Field(
        default=OnSigned.SKIP,
        description="what a change of these tables does where a signature covers it: skip, "
        "force (as Postfix does) or reject the mail",
    )
    header_size_limit: Size = Field(
        default=102_400, gt=0, description="of a header field that tables look at"
    )
    body_checks_size_limit: Size = Field(
        default=51_200, description="of each part's body that body_checks look at; 0 for all"
    )
    mime_nesting_limit: int = Field(
        default=100, ge=1, le=1000, description="mail with deeper parts is refused by the checks"
    )
    mime_boundary_length_limit: Size = Field(
        default=2048, gt=0, description="of a boundary that is compared"
    )
    line_length_limit: Size = Field(
        default=2048, ge=512, description="longer body lines are looked at in pieces of this size"
    )
    disable_mime_input_processing: bool = Field(
        default=False, description="take all below the mail's own header for body"
    )

    @property
    def checks_bodies(self) -> bool:
        """Whether Postfix's tables look below the mail's own header."""
        parts = (self.mime_header_checks, self.nested_header_checks)
        lists = [self.header_checks if each is None else each for each in parts]
        return bool(self.body_checks or any(lists))

    def outcomes(self) -> Outcomes:
        """See :meth:`FilterTable.outcomes`."""
        late = "accept" if self.on_timeout is OnTimeout.SKIP else "tempfail"
        return (("too slow", late, late), ("too many changes", "reject", "reject"))

    def options(self) -> HeadersOptions:
        """For the filter."""
        given = {
            name: (each,) if isinstance(each, str) else each
            for name, each in self.parameters.items()
        }
        here = socket.gethostname()
        names = {
            "authserv_id": (self.authserv_id or here,),
            "hostname": (self.hostname or here,),
        }
        return HeadersOptions(
            rules=self.rules,
            directory=self.rules_directory,
            parameters=names | given,
            match_time=self.match_time,
            mail_time=self.mail_time,
            on_timeout=self.on_timeout,
            edits_limit=self.edits_limit,
            standing=self.standing(),
            checks=self._checks(),
        )

    def _checks(self) -> ChecksOptions:
        bounds = Bounds(
            header_size_limit=self.header_size_limit,
            mime_nesting_limit=self.mime_nesting_limit,
            mime_boundary_length_limit=self.mime_boundary_length_limit,
            line_length_limit=self.line_length_limit,
            disable_mime_input_processing=self.disable_mime_input_processing,
        )
        return ChecksOptions(
            header_checks=self.header_checks,
            mime_header_checks=self.mime_header_checks,
            nested_header_checks=self.nested_header_checks,
            body_checks=self.body_checks,
            bounds=bounds,
            body_checks_size_limit=self.body_checks_size_limit,
            on_signed=self.checks_on_signed,
        )
