"""Whether octets are a name that a host may have in mail (valid_hostname(3))."""

from __future__ import annotations

import functools
import re

from smtpgw.address.path import is_literal

_LABEL = re.compile(rb"[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\x80-\xff-]*[A-Za-z0-9_\x80-\xff])?")
MAX_NAME = 255
MAX_LABEL = 63


@functools.lru_cache(maxsize=4096)
def mail_host(domain: bytes) -> bool:
    """A host name, or an address literal in brackets."""
    return is_literal(domain) if domain.startswith(b"[") else host_name(domain)


@functools.lru_cache(maxsize=4096)
def host_name(name: bytes) -> bool:
    """Labels of letters, digits, hyphens inside, underscores; not digits, dots, hyphens alone."""
    if not name or len(name) > MAX_NAME:
        return False
    labels = name.split(b".")
    fits = all(len(each) <= MAX_LABEL and _LABEL.fullmatch(each) for each in labels)
    return fits and not name.translate(None, b".-").isdigit()
