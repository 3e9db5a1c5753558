"""From the settings to the options of policy services, greylisting and throttles."""

from __future__ import annotations

from smtpgw.config import Smtpgw
from smtpgw.config.policy_service import PolicyListener, Throttle
from smtpgw.config.reception import Reception
from smtpgw.delegation.server import ServerOptions
from smtpgw.delegation.service import PolicyOptions
from smtpgw.greylist.rules import GreylistOptions
from smtpgw.greylist.throttle import ThrottleOptions


def client(reception: Reception) -> PolicyOptions:
    """How a listener asks policy services."""
    return PolicyOptions(
        timeout=reception.smtpd_policy_service_timeout,
        max_idle=reception.smtpd_policy_service_max_idle,
        max_ttl=reception.smtpd_policy_service_max_ttl,
        request_limit=reception.smtpd_policy_service_request_limit,
        try_limit=reception.smtpd_policy_service_try_limit,
        retry_delay=reception.smtpd_policy_service_retry_delay,
        default_action=reception.smtpd_policy_service_default_action,
        policy_context=reception.smtpd_policy_service_policy_context,
    )


def server(listener: PolicyListener) -> ServerOptions:
    """How a policy listener answers."""
    return ServerOptions(
        name=listener.name,
        idle=listener.idle,
        deadline=listener.deadline,
        connections=listener.connections,
        failure=listener.failure,
    )


def greylist(settings: Smtpgw) -> GreylistOptions:
    """When who passes."""
    own = settings.greylist
    return GreylistOptions(
        delay=own.delay,
        window=own.retry_window,
        lifetime=own.lifetime,
        allow_after=own.allow_after,
        ipv4=own.ipv4_prefix,
        ipv6=own.ipv6_prefix,
        entries=own.entries,
    )


def throttle(name: str, own: Throttle) -> ThrottleOptions:
    """One limit."""
    return ThrottleOptions(
        name=name,
        key=own.key,
        limit=float(own.limit),
        per=own.per,
        unit=own.unit,
        action=own.action,
        text=own.text,
    )
