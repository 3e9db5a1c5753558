"""An envelope as Postfix's cleanup(8) edits it.

Sources: cleanup_milter.c, cleanup_addr.c and cleanup_out_recipient.c of Postfix 3.7, held
against a running one by tests/lab/test_postfix_queue.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from milterd.core.mail import Envelope, Recipient
from milterd.lab.mta_rules.rules import first_address

_ENVID = re.compile(rb"ENVID=(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z", re.IGNORECASE)
_RET = re.compile(rb"RET=(FULL|HDRS)\Z", re.IGNORECASE)
_ORCPT = re.compile(rb"ORCPT=[!-:<-~]+;(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z", re.IGNORECASE)
_NOTIFY = re.compile(
    rb"NOTIFY=(?:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*)\Z", re.IGNORECASE
)


_Key = tuple[bytes, frozenset[bytes], bytes]


class Recipients:
    """Recipients under edit, each kept once: the address in any case, NOTIFY and ORCPT.

    Postfix gives a recipient of the client's an ORCPT where there is none, and one of a
    milter's not: what a milter adds once more is there twice.
    """

    def __init__(self, recipients: Iterable[Recipient], origin: bytes) -> None:
        self._origin = origin
        self._known: set[_Key] = set()
        self._kept: list[tuple[_Key, Recipient]] = []
        for each in recipients:
            self._add(each, b"rfc822;" + each.address)

    def all(self) -> tuple[Recipient, ...]:
        """Those that are there now."""
        return tuple(each for _, each in self._kept)

    def add(self, text: bytes, args: bytes) -> list[str]:
        """Add one; what was done otherwise than asked."""
        address = first_address(text)
        if not address:
            return ["null recipient ignored"]
        honoured, notes = _first_of_each(args)
        if not self._add(Recipient(qualified(address, self._origin), honoured), b""):
            notes.append("recipient that was there already ignored")
        return notes

    def delete(self, text: bytes) -> None:
        """Delete every one with this address, in this case; in another case they stay, but
        are no longer known when one is added."""
        address = first_address(text)
        self._known -= {key for key, each in self._kept if each.address.lower() == address.lower()}
        self._kept = [pair for pair in self._kept if pair[1].address != address]

    def _add(self, recipient: Recipient, orcpt: bytes) -> bool:
        notify: frozenset[bytes] = frozenset()
        for each in recipient.args:
            name, _, value = each.lower().partition(b"=")
            if name == b"orcpt":
                orcpt = value
            elif name == b"notify":
                notify = frozenset(value.split(b","))
        key = (recipient.address.lower(), notify, orcpt.lower())
        if key in self._known:
            return False
        self._known.add(key)
        self._kept.append((key, recipient))
        return True


def changed_sender(
    envelope: Envelope, text: bytes, args: bytes, origin: bytes
) -> tuple[Envelope, list[str]]:
    """The envelope from another sender, and what was done otherwise than asked.

    Parameters that are given take the place of the same ones.
    """
    given = args.split()
    honoured = [each for each in given if _RET.match(each) or _ENVID.match(each)]
    notes = [_ignored(each) for each in given if each not in honoured]
    latest = {each.partition(b"=")[0].upper(): each for each in honoured}
    kept = [each for each in envelope.sender_args if each.partition(b"=")[0].upper() not in latest]
    address = first_address(text)
    sender = qualified(address, origin) if address else b""
    return replace(envelope, sender=sender, sender_args=(*kept, *latest.values())), notes


def _first_of_each(args: bytes) -> tuple[tuple[bytes, ...], list[str]]:
    """The first NOTIFY and the first ORCPT, and what is said of the rest."""
    honoured: dict[re.Pattern[bytes], bytes] = {}
    notes = []
    for each in args.split():
        pattern = next((one for one in (_NOTIFY, _ORCPT) if one.match(each)), None)
        if pattern is None or honoured.setdefault(pattern, each) is not each:
            notes.append(_ignored(each))
    return tuple(honoured.values()), notes


def _ignored(parameter: bytes) -> str:
    return f"ESMTP parameter {parameter.decode('ascii', 'backslashreplace')!r} ignored"


def qualified(address: bytes, origin: bytes) -> bytes:
    """With the domain of the MTA (myorigin) where there is none."""
    return address if b"@" in address else b"%b@%b" % (address, origin)
