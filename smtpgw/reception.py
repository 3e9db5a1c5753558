"""The restriction lists of each listener, made of the settings: every restriction is known, and
every table that one names is open, before a mail needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from milterd.base.toml_file import Problem
from smtpgw import parameters
from smtpgw.address.find import Maps
from smtpgw.address.known import Known
from smtpgw.address.resolve import Resolver
from smtpgw.config import Listener, Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.delegation import service
from smtpgw.policy.engine import LISTS, Policy
from smtpgw.policy.options import PolicyOptions, Site
from smtpgw.policy.parse import PREDEFINED, REQUIRED, Mistake, Parser, RuleError, required
from smtpgw.policy.run import Rules
from smtpgw.table_room import TableRoom
from smtpgw.tables import spec

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_RELAYING = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
_OPTIONS = tuple(
    name
    for name in PolicyOptions.__dataclass_fields__
    if name in Reception.model_fields and name != "smtpd_null_access_lookup_key"
)

_TEMPFAIL = tuple(name for name in _OPTIONS if name.endswith("_tempfail_action"))


class Receptions:
    """Makes the policies of listeners; what is wrong goes to the room's problems."""

    def __init__(
        self,
        settings: Smtpgw,
        room: TableRoom,
        resolver: Resolver,
        recipients: Known,
        senders: Known,
        own: frozenset[IPv4Address | IPv6Address],
    ) -> None:
        self._settings, self._room = settings, room
        self._site = Site(
            resolver=resolver,
            recipients=recipients,
            senders=senders,
            mynetworks=room.clients("mynetworks"),
            own_addresses=frozenset(map(str, own)),
        )

    def all(self) -> Mapping[tuple[str, bool], Policy]:
        """By listener and whether it is under stress; that without a name is the first listener's
        of profile mx, or what [smtpgw] says where there is none."""
        found: dict[tuple[str, bool], Policy] = {}
        for listener in self._settings.listener:
            found[listener.name, False] = self._policy(listener, stress=False)
            stressed = self._settings.stress.model_fields_set
            found[listener.name, True] = (
                self._policy(listener, stress=True) if stressed else found[listener.name, False]
            )
            if listener.profile == "mx":
                found.setdefault(("", False), found[listener.name, False])
        if ("", False) not in found:
            one = _One(self._settings, self._room, self._site, None, self._settings, stress=False)
            found["", False] = one.policy()
        return found

    def asked(self) -> Mapping[str, Policy]:
        """Of policy listeners, by name."""
        found = {}
        for each in self._settings.policy_listener:
            one = _One(self._settings, self._room, self._site, None, self._settings, stress=False)
            key = f"policy_listener {each.name}: restrictions"
            found[each.name] = one.alone("smtpd_recipient_restrictions", key, each.restrictions)
        return found

    def _policy(self, listener: Listener, *, stress: bool) -> Policy:
        reception = self._settings.reception(listener, stress=stress)
        return _One(
            self._settings, self._room, self._site, listener, reception, stress=stress
        ).policy()


def _service(text: str) -> object:
    """Raises ValueError."""
    return service.parse(text, service.PolicyOptions(), "")


class _One:
    """The policy of one listener."""

    def __init__(
        self,
        settings: Smtpgw,
        room: TableRoom,
        site: Site,
        listener: Listener | None,
        reception: Reception,
        *,
        stress: bool,
    ) -> None:
        self._settings, self._room, self._site = settings, room, site
        self._listener, self._reception = listener, reception
        self._values = settings.parameters(reception, stress=stress)
        self._key = ""
        classes = {name: self._text(name) for name in self._classes()}
        self._parser = Parser({**PREDEFINED, **classes}, self._open, _service, self._throttle)

    def policy(self) -> Policy:
        """Its lists."""
        lists = {name: self._rules(name, bare) for name, (_, bare) in LISTS.items()}
        if not any(required(lists[each]) for each in _RELAYING):
            found = f"{' and '.join(_RELAYING)} by which strangers may send anywhere"
            expected = f"one of {', '.join(REQUIRED[:-1])}"
            self._wrong(_RELAYING[0], Mistake(found, expected))
        for name in self._parser.classes:
            self._look_at(name)
        return Policy(self._options(), self._asking(), lists, self._parser)

    def _throttle(self, name: str) -> None:
        """Raises ValueError."""
        if name not in self._settings.throttle:
            known = ", ".join(self._settings.throttle) or "none"
            raise ValueError(
                f"the name of a throttle, a table [smtpgw.throttle.NAME] (there are: {known})"
            )

    def _asking(self) -> Site:
        """The site with this listener's tables."""
        networks = self._text("permit_mx_backup_networks")
        return replace(
            self._site,
            smtpd_sender_login_maps=self._tables("smtpd_sender_login_maps"),
            relay_clientcerts=self._tables("relay_clientcerts"),
            rbl_reply_maps=self._tables("rbl_reply_maps"),
            smtpd_reject_footer_maps=self._tables("smtpd_reject_footer_maps"),
            permit_mx_backup_networks=(
                self._room.client_list("permit_mx_backup_networks", networks) if networks else None
            ),
        )

    def _tables(self, name: str) -> Maps | None:
        return self._room.open(name, spec.split(self._text(name)))

    def alone(self, listed: str, key: str, text: str) -> Policy:
        """One list only, written elsewhere under `key`."""
        self._key = key
        rules: Rules = ()
        try:
            whole = parameters.expand(text, self._values)
            rules = self._parser.rules(whole, LISTS[listed][1])
        except parameters.ParameterError as error:
            self._wrong(key, Mistake(error.found, error.expected, error.nearest))
        except RuleError as error:
            for each in error.mistakes:
                self._wrong(key, each)
        return Policy(self._options(), self._site, {listed: rules}, self._parser)

    def _options(self) -> PolicyOptions:
        values = {name: getattr(self._reception, name) for name in _OPTIONS}
        for name in _TEMPFAIL:
            values[name] = values[name] or self._reception.reject_tempfail_action
        settings = self._settings
        return PolicyOptions(
            myhostname=settings.hostname,
            access_parents="smtpd_access_maps" in settings.parent_domain_matches_subdomains,
            dns_limit=settings.dns.mail_timeout,
            smtpd_null_access_lookup_key=self._reception.smtpd_null_access_lookup_key.encode(),
            **values,
        )

    def _classes(self) -> tuple[str, ...]:
        found = tuple(spec.split(self._text("smtpd_restriction_classes")))
        for each in found:
            if not self._settings.define.get(each):
                expected = f"{each} in [smtpgw.define], with the restrictions it stands for"
                self._wrong("smtpd_restriction_classes", Mistake(each, expected))
        return tuple(each for each in found if self._settings.define.get(each))

    def _rules(self, name: str, bare: str) -> Rules:
        self._key = name
        try:
            return self._parser.rules(self._text(name), bare)
        except RuleError as error:
            for each in error.mistakes:
                self._wrong(name, each)
            return ()

    def _look_at(self, name: str) -> None:
        """A class that no list names may be named by a table of any list."""
        self._key = f"define.{name}"
        for bare in dict.fromkeys(bare for _, bare in LISTS.values()):
            try:
                self._parser.rules(name, bare)
            except RuleError as error:
                # A table alone means nothing in some lists: where it is used, that shows.
                for each in error.mistakes if bare else ():
                    self._wrong(self._key, each)

    def _text(self, name: str) -> str:
        try:
            return parameters.expand(f"${{{name}}}", self._values)
        except parameters.ParameterError as error:
            self._wrong(name, Mistake(error.found, error.expected, error.nearest))
            return ""

    def _open(self, name: str) -> Maps | None:
        return self._room.open(self._key, (name,))

    def _wrong(self, name: str, mistake: Mistake) -> None:
        where = f"smtpgw.{name}"
        if self._listener is not None and name in self._listener.model_fields_set:
            where = f"listener {self._listener.name}: {name}"
        problem = Problem("settings", 0, where, mistake.found, mistake.expected, mistake.nearest)
        if problem not in self._room.problems:
            self._room.problems.append(problem)
