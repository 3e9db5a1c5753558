"""smtp_generic_maps: what leaves has other addresses, and only what a rule changes is other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.base import logs
from smtpgw.addresses import open_addresses
from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Job, Outcome
from smtpgw.generic import GenericDelivery, rewrite_head
from smtpgw.tables.table import Unavailable
from tests.delivery.peer import job
from tests.delivery.test_transports import given as settings_of
from tests.queue.support import run

TABLE = """
his@ours.example he@public.example
"h er"@ours.example her@public.example
root inside@public.example
@host.ours.example @public.example
"""
HEAD = (
    b"Received: from u@host.ours.example (his@ours.example)\r\n"
    b"From:  \xe9 <his@ours.example> (root)\r\n"
    b'to : his@OURS.example,\r\n\tother@far.example , "h er"@ours.example\r\n'
    b"Subject: his@ours.example\r\n"
    b"Sender: x@host.ours.example\r\n"
    b"\r\n"
)


class Behind:
    """What comes out of it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        assert destination.transport == "smtp"
        self.jobs.append(job)
        return [Delivered(each.number, "") for each in job.targets]

    async def close(self) -> None:
        return


class Broken:
    async def rewrite(self, address: bytes) -> bytes:
        raise Unavailable("hash:/x", f"gone, asked for {address!r}")


def through(tmp_path: Path, given: Job, *, signed: bool = False) -> tuple[Job, list[Outcome]]:
    (tmp_path / "generic").write_text(TABLE)
    text = f'smtp_generic_maps = ["texthash:{tmp_path}/generic"]'
    addresses = open_addresses(settings_of(text), logs.get("test"))
    assert addresses.generic is not None
    behind = Behind()
    delivery = GenericDelivery(behind, addresses.generic, signed=signed)
    outcomes = run(delivery.deliver(Destination("smtp", "far.example"), given))
    return behind.jobs[0], list(outcomes)


def test_envelope_and_fields_are_rewritten_and_nothing_else(tmp_path: Path) -> None:
    rcpts = (b"his@ours.example", b"U@Host.ours.example", b'"odd one"@far.example')
    sent, outcomes = through(tmp_path, job(rcpts, sender=b"root@ours.example", head=HEAD))
    assert sent.sender == b"inside@public.example", "ours.example is a domain of ours"
    assert [each.address for each in sent.targets] == [
        b"he@public.example",
        b"U@public.example",
        b'"odd one"@far.example',
    ]
    assert [each.number for each in outcomes] == [0, 1, 2]
    assert sent.head == (
        HEAD.replace(b"\xe9 <his@ours.example>", b"\xe9 <he@public.example>")
        .replace(b"his@OURS.example,", b"he@public.example,")
        .replace(b'"h er"@ours.example', b"her@public.example")
        .replace(b": x@host.ours.example", b": x@public.example")
    )


@pytest.mark.parametrize("also", [False, True])
def test_a_signed_field_stays_unless_it_is_told_otherwise(tmp_path: Path, also: bool) -> None:
    head = b"DKIM-Signature: v=1; h=from:subject; b=x\r\n" + HEAD
    sent, _ = through(tmp_path, job(head=head), signed=also)
    assert (b"<he@public.example>" in sent.head) is also
    assert b"he@public.example," in sent.head


def test_the_null_sender_and_odd_heads_stay(tmp_path: Path) -> None:
    for head in (b"\r\n", b"", b"no field\r\n\r\n", b"From: his@ours.example\r\n", HEAD + b"x"):
        sent, _ = through(tmp_path, job(sender=b"", head=head))
        assert (sent.sender, sent.head) == (b"", head)


def test_a_table_that_cannot_answer_defers() -> None:
    behind = Behind()
    delivery = GenericDelivery(behind, Broken(), signed=False)
    (found,) = run(delivery.deliver(Destination("smtp", "x"), job()))
    assert isinstance(found, Deferred)
    assert (found.enhanced, found.text) == ("4.3.5", "hash:/x cannot answer now")
    assert behind.jobs == []


async def _same(address: bytes) -> bytes:
    return address


@given(st.lists(st.sampled_from(
    [b"From:", b"To: ", b"a@b", b"<", b">", b"\r\n", b" ", b"\t", b"\n", b"\r", b":", b'"', b"x"]
)).map(b"".join))  # fmt: skip
def test_without_a_rule_every_octet_stays(head: bytes) -> None:
    assert run(rewrite_head(head, _same, also_signed=False)) == head
    assert run(rewrite_head(head + b"\r\n\r\n", _same, also_signed=True)) == head + b"\r\n\r\n"
