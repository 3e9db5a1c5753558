"""Both hosts say exactly what a filter decided, over a real socket."""

from __future__ import annotations

import socket
import tracemalloc

import pytest

from milterd.core.actions import ChangeHeader
from milterd.core.decision import Decision, Verdict
from milterd.host import emit, negotiation
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from tests.host.conftest import Hosting
from tests.host.scripted import CASES

GOES_ON = [
    name
    for name, each in CASES.items()
    if each.verdict in (Verdict.CONTINUE, Verdict.ACCEPT)
    and name not in ("8bit", "injection", "bare-cr", "bad-address", "huge-header")
]


def case(name: str) -> list[tuple[bytes, bytes]]:
    return [(b"Subject", b" old"), (b"X-Case", b" " + name.encode())]


@pytest.fixture
def host(shared_hosting: Hosting):
    return shared_hosting("script")


@pytest.fixture
def own_host(hosting: Hosting):
    """For tests that read its log."""
    return hosting("script")


@pytest.mark.parametrize("name", GOES_ON)
def test_edits_arrive_as_decided(host, name) -> None:
    with host.mta() as mta:
        answer = mta.greet().message(case(name))
    assert answer.edits == CASES[name].edits
    wanted = m.Accept() if CASES[name].verdict is Verdict.ACCEPT else m.Continue()
    assert answer.reply == wanted


def test_all_cases_on_one_connection_and_socket_families(hosting: Hosting) -> None:
    host = hosting("script", socket.AF_INET)
    with host.mta() as mta:
        mta.greet()
        for name in GOES_ON:
            assert mta.message(case(name)).edits == CASES[name].edits


@pytest.mark.parametrize("protocol", [Protocol.ALL, Protocol.NONE])
def test_another_client_on_the_same_connection(hosting: Hosting, protocol: Protocol) -> None:
    """QUIT_NC, which libmilter takes right after a message: the next client has what was
    negotiated before it."""
    with hosting("script").mta(protocol=protocol) as mta:
        for name in ("envelope", "utf8"):
            mta.greet().begin(case(name))
            answer = mta.end()
            assert (answer.edits, answer.reply) == (CASES[name].edits, m.Continue())
            assert not mta.wire.violations
            mta.say(m.QuitNewConnection())


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("reject", m.ReplyCode(b"550 5.7.1 100%% no")),
        ("tempfail", m.ReplyCode(b"451 4.7.1 later")),
        ("discard", m.Discard()),
        ("plain-reject", m.Reject()),
        ("plain-tempfail", m.TempFail()),
        ("odd-code", m.Reject()),
    ],
)
def test_refusals_carry_no_edits(host, name, reply) -> None:
    with host.mta() as mta:
        answer = mta.greet().message(case(name))
    assert answer.edits == ()
    assert answer.reply == reply


@pytest.mark.parametrize("name", ["raise", "raise-gather"])
def test_a_raising_filter_is_temporary_and_leaks_nothing(own_host, name) -> None:
    with own_host.mta() as mta:
        answer = mta.greet().message(case(name))
        again = mta.message(case("headers"))
    assert answer.reply == m.ReplyCode(b"451 4.3.0 Internal error, trace id trace1")
    assert again.edits == CASES["headers"].edits
    own_host.stop()
    (failure,) = own_host.log("failure")
    assert (failure["trace"], failure["kind"]) == ("trace1", "filter")
    assert "secret of" in failure["exception"]


@pytest.mark.parametrize("name", ["injection", "bare-cr", "bad-address", "huge-header"])
def test_an_edit_that_cannot_be_said_is_said_by_no_half(host, name) -> None:
    with host.mta() as mta:
        answer = mta.greet().message(case(name))
        assert mta.message(case("headers")).edits == CASES["headers"].edits
    assert answer.edits == ()
    assert answer.reply.text.startswith(b"451 4.3.0 ")


def test_octets_that_are_no_utf8(own_host, kind) -> None:
    with own_host.mta() as mta:
        answer = mta.greet().message(case("8bit"))
    if kind == "native":
        assert answer.edits == CASES["8bit"].edits
        return
    assert answer.edits == ()
    assert answer.reply.text.startswith(b"451 4.3.0 ")
    own_host.stop()
    assert "host = 'native' can" in own_host.log("failure")[0]["exception"]


def test_edits_that_were_not_asked_for_are_not_made(hosting: Hosting) -> None:
    host = hosting("read-only")
    with host.mta() as mta:
        assert mta.negotiated.actions == Actions.SETSYMLIST
        answer = mta.greet().message(case("headers"))
    assert answer.edits == ()
    assert answer.reply.text.startswith(b"451 4.3.0 ")


def test_every_macro_is_asked_for_by_name(host) -> None:
    with host.mta() as mta:
        assert dict(mta.negotiated.macros) == dict(negotiation.MACROS)


def test_an_mta_that_offers_less(host) -> None:
    """No edits of the header: those are refused as ours, others pass."""
    offer = Actions.ALL & ~Actions.ADDHDRS
    with host.mta(actions=offer) as mta:
        mta.greet()
        assert mta.message(case("headers")).reply.text.startswith(b"451 4.3.0 ")
        assert mta.message(case("body")).edits == CASES["body"].edits


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_every_version_of_the_protocol(host, version) -> None:
    with host.mta(version=version) as mta:
        assert mta.negotiated.version == version
        answer = mta.greet().message(case("headers"))
        assert mta.message(case("quarantine")).edits == CASES["quarantine"].edits
    if version == 6:
        assert answer.edits == CASES["headers"].edits
    else:  # no HDR_LEADSPC: the MTA puts one space in front, so a value cannot go without
        assert [each.name for each in answer.edits] == [e.name for e in CASES["headers"].edits]


def test_only_the_end_of_message_awaits_a_reply(host) -> None:
    with host.mta() as mta:
        mta.greet()
        assert mta.wire.awaiting == 0
        assert Protocol.HDR_LEADSPC in mta.negotiated.protocol
        assert mta.negotiated.protocol & Protocol(0xFF080) == Protocol(0xFF080)


def test_one_line_a_decision(own_host) -> None:
    with own_host.mta() as mta:
        mta.greet().message(case("reject"))
    own_host.stop()
    (line,) = own_host.log("decision")
    assert line["filter"] == "script"
    assert line["client"] == "client.example[192.0.2.1]"
    assert line["queue_id"] == "4XYZ"
    assert line["outcome"] == "reject"
    assert line["reason"] == "rule: refused (rule=r1)"
    assert 0 <= line["ms"] < 5000


def test_names_that_came_with_a_mail_are_not_kept() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(300):
            edits = (ChangeHeader(b"X-%d-" % number + b"x" * 60_000, 1, b""),)
            emit.check(Decision(edits=edits), Actions.ALL, leading_space=True)
            assert sum(len(each.encode()) for each in emit.edit_replies(edits, leading_space=True))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000_000
