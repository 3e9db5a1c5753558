"""From the settings about how often and how fast clients may come to the options of the rooms."""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Iterator

from milterd.base.toml_file import Problem
from smtpgw import parameters
from smtpgw.address.clients import ClientElement, ClientList
from smtpgw.addresses import Addresses
from smtpgw.config import Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.config.types import check_network
from smtpgw.edge.options import Deadlines, Limits
from smtpgw.limiting import LimitPlan
from smtpgw.rates.limits import ClientLimits
from smtpgw.tables import spec

_EXCEPTIONS = "smtpd_client_event_limit_exceptions"
_MYNETWORKS = "mynetworks"


def deadlines(reception: Reception) -> Deadlines:
    """How long a listener waits."""
    return Deadlines(
        smtpd_timeout=reception.smtpd_timeout,
        starttls=reception.smtpd_starttls_timeout,
        per_request=reception.smtpd_per_request_deadline,
        min_data_rate=reception.smtpd_min_data_rate,
    )


def limits(settings: Smtpgw, reception: Reception) -> Limits:
    """How much of a dialogue a client gets."""
    return Limits(
        recipient_limit=reception.smtpd_recipient_limit,
        recipient_overshoot_limit=reception.smtpd_recipient_overshoot_limit,
        junk_command_limit=reception.smtpd_junk_command_limit,
        soft_error_limit=reception.smtpd_soft_error_limit,
        hard_error_limit=reception.smtpd_hard_error_limit,
        error_sleep_time=reception.smtpd_error_sleep_time,
        connections=settings.default_process_limit,
        stress=reception.smtpd_stress,
    )


def clients(settings: Smtpgw, reception: Reception, addresses: Addresses) -> LimitPlan:
    """How often clients may come.  Raises ParameterError, ValueError."""
    return LimitPlan(
        ClientLimits(
            connection_count_limit=reception.smtpd_client_connection_count_limit,
            connection_rate_limit=reception.smtpd_client_connection_rate_limit,
            message_rate_limit=reception.smtpd_client_message_rate_limit,
            recipient_rate_limit=reception.smtpd_client_recipient_rate_limit,
            new_tls_session_rate_limit=reception.smtpd_client_new_tls_session_rate_limit,
            auth_rate_limit=reception.smtpd_client_auth_rate_limit,
            ipv4_prefix_length=reception.smtpd_client_ipv4_prefix_length,
            ipv6_prefix_length=reception.smtpd_client_ipv6_prefix_length,
        ),
        _exceptions(settings, reception, addresses),
    )


def problems(settings: Smtpgw) -> Iterator[Problem]:
    """What cannot be used, beside what each setting's own form forbids."""
    if settings.client_counts and importlib.util.find_spec("redis") is None:
        wanted = "the Python package redis, which the extra of that name installs"
        yield Problem("settings", 0, "smtpgw.client_counts", "no such package", wanted)
    for each in settings.listener:
        reception = settings.reception(each)
        try:
            _networks(settings, reception)
        except ValueError as error:
            where = f"listener {each.name}: {_EXCEPTIONS}"
            yield Problem("settings", 0, where, str(error), "networks, addresses and $mynetworks")


def _exceptions(settings: Smtpgw, reception: Reception, addresses: Addresses) -> ClientList:
    """Whom the limits are not for; in the place of $mynetworks, all that is in it."""
    found: list[ClientElement] = []
    for each in _networks(settings, reception):
        found += addresses.mynetworks.elements if each is None else (each,)
    return ClientList(tuple(found))


def _networks(settings: Smtpgw, reception: Reception) -> list[ClientElement | None]:
    """The elements of the exceptions; None stands for mynetworks.  Raises ValueError."""
    values = {**settings.parameters(reception), "mynetworks": _MYNETWORKS}
    found: list[ClientElement | None] = []
    for each in spec.split(parameters.expand(f"${_EXCEPTIONS}", values)):
        bare = each.lstrip("!")
        if bare == _MYNETWORKS:
            found.append(None)
            continue
        network = ipaddress.ip_network(check_network(bare))
        found.append(ClientElement(network, None, (len(each) - len(bare)) % 2 == 1))
    return found
