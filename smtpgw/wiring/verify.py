"""From the settings to address verification's options."""

from __future__ import annotations

import contextlib
from pathlib import Path

from smtpgw import parameters
from smtpgw.config import Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.stores.shared import MEMORY
from smtpgw.verify.rules import VerifyOptions
from smtpgw.verify.sender import ProbeSender
from smtpgw.verify.verifier import Polls


def path(settings: Smtpgw) -> str:
    """The file of the cache."""
    given = settings.address_verify_map
    if not given:
        return MEMORY
    expanded = given.replace("$queue_directory", str(settings.queue.directory))
    return str(settings.queue.directory / Path(expanded))


def cache(settings: Smtpgw) -> VerifyOptions:
    """How long what counts."""
    deferred = settings.address_verify_deferred_refresh_time
    negative = settings.address_verify_negative_refresh_time
    return VerifyOptions(
        positive_expire=settings.address_verify_positive_expire_time,
        positive_refresh=settings.address_verify_positive_refresh_time,
        negative_expire=settings.address_verify_negative_expire_time,
        negative_refresh=negative,
        deferred_refresh=negative if deferred is None else deferred,
        negative_cache=settings.address_verify_negative_cache,
        primary_down=settings.address_verify_primary_down,
    )


def polls(reception: Reception) -> Polls:
    """How long a listener's clients wait."""
    return Polls(reception.address_verify_poll_count, reception.address_verify_poll_delay)


def sender(settings: Smtpgw, origin: bytes) -> ProbeSender:
    """Who probes come from; `origin` is myorigin as it was read."""
    text = settings.address_verify_sender
    with contextlib.suppress(parameters.ParameterError):  # told of when the settings were read
        text = settings.expanded("address_verify_sender")
    if text in ("", "<>"):
        return ProbeSender()
    address = text.encode()
    if b"@" not in address:
        address = b"%b@%b" % (address, origin)
    return ProbeSender(address, settings.address_verify_sender_ttl)
