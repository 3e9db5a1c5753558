"""What restrictions need of the rooms beside them, as :mod:`smtpgw.policy.ports` has it: address
verification, policy services, the greylist and throttles.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from structlog.typing import FilteringBoundLogger

from smtpgw.config.policy_service import Greylist as GreylistSettings
from smtpgw.config.policy_service import Throttle as ThrottleSettings
from smtpgw.delegation import client as delegation
from smtpgw.delegation import service
from smtpgw.greylist import keys
from smtpgw.greylist.rules import Verdict
from smtpgw.greylist.store import GreylistStore
from smtpgw.greylist.throttle import Asked, ThrottleOptions, Throttles
from smtpgw.policy.facts import Facts
from smtpgw.policy.ports import ServiceDown, Verified
from smtpgw.stores.shared import StoreDown
from smtpgw.verify.rules import Status
from smtpgw.verify.verifier import Polls, Verifier

_STATUS: Mapping[Status, Verified] = {
    Status.OK: Verified("ok", 250),
    Status.BOUNCED: Verified("bounced", 550),
    Status.DEFERRED: Verified("deferred", 450),
    Status.UNREACHABLE: Verified("deferred", 450),
    Status.UNKNOWN: Verified("unknown", 450),
}


@dataclass(frozen=True, slots=True)
class VerifyPort:
    """reject_unverified_*; `accept`: while the cache cannot be used, every address is good."""

    verifier: Verifier
    polls: Polls
    accept: bool
    log: FilteringBoundLogger

    async def verify(self, address: bytes, *, sender: bool) -> Verified:  # noqa: ARG002 - alike for both
        try:
            found = await self.verifier.verify(address, self.polls)
        except StoreDown as error:
            self.log.warning("verify", outcome="unavailable", reason=str(error))
            if self.accept:
                return Verified("ok", 250, "the cache cannot be used")
            raise ServiceDown(str(error)) from error
        known = _STATUS[found.status]
        return Verified(known.status, known.code, found.text)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """check_policy_service.  A service that is down answers with its default action."""

    client: delegation.PolicyClient
    options: service.PolicyOptions
    directory: str
    log: FilteringBoundLogger

    async def ask(self, service_text: str, attributes: Mapping[str, str]) -> str:
        try:
            where = service.parse(service_text, self.options, self.directory)
        except ValueError as error:
            raise ServiceDown(str(error)) from error
        own = {"policy_context": where.options.policy_context}
        try:
            return await self.client.ask(where, {**attributes, **own})
        except delegation.ServiceDown as error:
            action = where.options.default_action
            self.log.warning("policy service", outcome="down", reason=str(error), action=action)
            return action


@dataclass(frozen=True, slots=True)
class GreylistPort:
    """check_greylist.  Who has logged in, is of this machine, or is exempt does not wait."""

    store: GreylistStore
    settings: GreylistSettings
    exempt: Callable[[Facts], Awaitable[str]]
    hostname: str
    wall: Callable[[], float]
    log: FilteringBoundLogger

    async def check(self, facts: Facts) -> str:
        """An action of access(5)."""
        if facts.recipient is None or facts.sender is None or facts.login is not None:
            return "DUNNO"
        own = self.settings
        address = facts.client.address.decode("ascii", "replace")
        asked = keys.triplet(
            address, facts.sender, facts.recipient, ipv4=own.ipv4_prefix, ipv6=own.ipv6_prefix
        )
        if asked is None:
            return "DUNNO"
        exempt = await self.exempt(facts)
        if exempt:
            self.log.info("greylist", outcome="exempt", reason=exempt, client=address)
            return "DUNNO"
        try:
            verdict = await self.store.check(asked)
        except StoreDown as error:
            self.log.warning("greylist", outcome="unavailable", reason=str(error))
            late = own.failure == "defer"
            return "DEFER_IF_PERMIT 4.3.0 Greylisting is not available now" if late else "DUNNO"
        self.log.info("greylist", outcome=verdict.reason, wait=verdict.wait, client=address)
        return self._action(verdict)

    def _action(self, verdict: Verdict) -> str:
        if verdict.wait:
            seconds = str(max(int(verdict.wait + 0.999), 1))
            return f"DEFER_IF_PERMIT 4.2.0 {self.settings.text.replace('%d', seconds)}"
        if verdict.reason == "passed" and self.settings.header:
            date = formatdate(self.wall())
            waited = int(verdict.delayed)
            return f"PREPEND X-Greylist: delayed {waited} seconds at {self.hostname}; {date}"
        return "DUNNO"


@dataclass(frozen=True, slots=True)
class ThrottlePort:
    """check_throttle NAME."""

    throttles: Throttles
    options: Mapping[str, ThrottleOptions]
    settings: Mapping[str, ThrottleSettings]
    log: FilteringBoundLogger

    async def check(self, name: str, facts: Facts) -> str:
        """An action of access(5)."""
        options = self.options.get(name)
        if options is None:
            raise ServiceDown(
                f"no throttle is called {name} (there are: {', '.join(self.options)})"
            )
        asked = Asked(_keys(facts), facts.instance, facts.size)
        try:
            found = await self.throttles.check(options, asked)
        except StoreDown as error:
            self.log.warning("throttle", name=name, outcome="unavailable", reason=str(error))
            late = self.settings[name].failure == "defer"
            return "DEFER_IF_PERMIT 4.3.0 Limits cannot be checked now" if late else "DUNNO"
        if not found.over:
            return "DUNNO"
        self.log.warning("throttle", name=name, outcome="over", key=found.key, used=found.used)
        return _THROTTLED[options.action].replace("%s", options.text)


_THROTTLED = {
    "defer": "DEFER 4.7.1 %s",
    "reject": "REJECT 5.7.1 %s",
    "hold": "HOLD %s",
    "warn": "WARN %s",
}


def _keys(facts: Facts) -> dict[str, str]:
    """What a mail can be counted by; what is not known is empty."""
    address = facts.client.address.decode("ascii", "replace")
    sender, recipient = _text(facts.sender), _text(facts.recipient)
    return {
        "client": address,
        "client_net": keys.network(address) or "",
        "sender": sender if facts.sender != b"" else "<>",
        "sender_domain": sender.rpartition("@")[2] if "@" in sender else "",
        "recipient": recipient,
        "recipient_domain": recipient.rpartition("@")[2] if "@" in recipient else "",
        "sasl_user": _text(facts.login.name) if facts.login is not None else "",
    }


def _text(octets: bytes | None) -> str:
    return (octets or b"").decode("utf-8", "backslashreplace").lower()
