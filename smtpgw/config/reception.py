"""What a listener may have of its own, as with `-o` in master.cf.

Every key of :class:`Reception` may stand in [smtpgw], for all listeners, and in a listener's own
table.  What a listener goes by is, from the weakest to the strongest: [smtpgw], what its profile
is for (:data:`PROFILES`), its own keys and, under stress, [smtpgw.stress].
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from milterd.base import settings
from milterd.base.fields import INHERITED, VERBATIM, Duration
from smtpgw.config.access import Access
from smtpgw.config.limits import ClientLimits
from smtpgw.config.policy_service import PolicyServices
from smtpgw.config.sasl import ServerSasl
from smtpgw.config.screen import Screen
from smtpgw.config.smtpd import Smtpd
from smtpgw.config.tls_server import ServerTls
from smtpgw.config.verify import Polls

Profile = Literal["mx", "submission", "submissions", "internal", "lmtp"]


class Reception(Access, ServerTls, ServerSasl, Screen, ClientLimits, Smtpd, Polls, PolicyServices):
    """All of them, with values."""


_SUBMISSION: Mapping[str, object] = MappingProxyType({
    "smtpd_sasl_auth_enable": True,
    "smtpd_relay_restrictions": ("permit_mynetworks", "permit_sasl_authenticated", "reject"),
})  # fmt: skip

PROFILES: Mapping[Profile, Mapping[str, object]] = MappingProxyType({
    "mx": {},
    "submission": {**_SUBMISSION, "smtpd_tls_security_level": "encrypt"},
    "submissions": {
        **_SUBMISSION,
        "smtpd_tls_wrappermode": True,
        "smtpd_tls_security_level": "encrypt",
    },
    "internal": {"smtpd_relay_restrictions": ("permit_mynetworks", "reject")},
    "lmtp": {"smtpd_banner": "$myhostname LMTP $mail_name"},
})  # fmt: skip
"""What each kind of listener has instead of what [smtpgw] says."""


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    """The same key, which need not be there."""
    inner: Any = field.annotation
    if field.metadata:
        inner = Annotated[(inner, *field.metadata)]
    # Not `inner | None`: Annotated knows no such thing in Python 3.11.
    shape: Any = Optional[inner]  # noqa: UP045
    return shape, Field(
        default=None, description=field.description, json_schema_extra={INHERITED: True}
    )


if TYPE_CHECKING:
    Overrides = settings.Table
else:
    Overrides = create_model(
        "Overrides",
        __base__=settings.Table,
        __module__=__name__,
        __doc__="The keys of Reception that take the place of others.",
        **{name: _optional(each) for name, each in Reception.model_fields.items()},
    )


class Stress(Overrides):
    """What changes while the gateway is under stress: any key of [smtpgw] about reception.  These
    defaults are for keys that stand nowhere else; one that is set keeps its value unless it is
    set here too (STRESS_README)."""

    smtpd_timeout: Duration | None = Field(
        default=10.0, gt=0, description="for a command, and the next octets of a message"
    )
    smtpd_starttls_timeout: Duration | None = Field(
        default=10.0, gt=0, description="for the whole TLS handshake"
    )
    smtpd_hard_error_limit: int | None = Field(
        default=1, ge=1, description="errors without a mail at which a client is sent away"
    )
    smtpd_junk_command_limit: int | None = Field(
        default=1, ge=0, description="commands that bring no mail nearer, before they are errors"
    )
    smtpd_per_request_deadline: bool | None = Field(
        default=True, description="whether a message has to keep up smtpd_min_data_rate"
    )


def expandable(model: type[settings.Table]) -> list[str]:
    """The keys of a model in which `$name` stands for another setting."""
    found = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get(VERBATIM)):
            found.append(name)
    return found


def given(table: settings.Table) -> dict[str, object]:
    """What a table of overrides says."""
    found = {name: getattr(table, name, None) for name in Reception.model_fields}
    return {name: value for name, value in found.items() if value is not None}


def resolved(
    general: Reception, profile: Profile, own: settings.Table, stress: settings.Table | None = None
) -> Reception:
    """What a listener goes by.  Raises pydantic.ValidationError where keys do not go together."""
    base = {name: getattr(general, name) for name in Reception.model_fields}
    usual = {**base, **PROFILES[profile], **given(own)}
    under_stress = _meant(given(stress), usual) if stress is not None else {}
    return Reception.model_validate({**usual, **under_stress})


def _meant(stress: dict[str, object], usual: dict[str, object]) -> dict[str, object]:
    """What stress changes: not by a default what somebody has set."""
    defaults = {name: each.default for name, each in Stress.model_fields.items()}
    set_elsewhere = {
        name for name, each in Reception.model_fields.items() if usual[name] != each.default
    }
    return {
        name: value
        for name, value in stress.items()
        if value != defaults[name] or name not in set_elsewhere
    }
