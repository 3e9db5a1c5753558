"""Negotiation: what is offered, what is agreed, what is refused (attack row I02)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.wire import messages as m
from milterd.wire.agreement import NOT_OFFERED
from milterd.wire.commands import decode_negotiate
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    PROTOCOL_OF_VERSION,
    Actions,
    Protocol,
    Stage,
)
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.milter import MilterConnection
from milterd.wire.mta import MtaConnection
from milterd.wire.states import State
from tests.wire.helpers import negotiated_milter, negotiated_mta
from tests.wire.strategies import actions, protocols

versions = st.integers(2, 6)


@given(versions, versions, actions, protocols, actions, protocols)
def test_both_sides_agree_on_the_same(
    theirs: int, ours: int, offered: Actions, flags: Protocol, asked: Actions, wished: Protocol
) -> None:
    mta = MtaConnection(version=theirs, actions=offered, protocol=flags)
    milter = MilterConnection(version=ours, accept_actions=asked, accept_protocol=wished)
    assert mta.awaiting == 0
    milter.receive(mta.negotiate())
    assert mta.awaiting == 1
    assert milter.reply_due
    mta.receive(milter.negotiate())
    assert mta.agreed_version == milter.agreed_version == min(theirs, ours)
    assert mta.agreed_actions == milter.agreed_actions
    assert mta.agreed_actions & ~(offered & asked) == 0
    assert mta.agreed_actions & ~ACTIONS_OF_VERSION[mta.agreed_version] == 0
    assert mta.agreed_protocol == milter.agreed_protocol
    assert mta.agreed_protocol & ~(flags & wished & PROTOCOL_OF_VERSION[mta.agreed_version]) == 0
    assert mta.leading_space is milter.leading_space
    assert mta.violations == ()


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_an_offer_holds_what_its_version_has(version: int) -> None:
    octets = MtaConnection(version=version).negotiate()
    offer = m.Negotiate(version, ACTIONS_OF_VERSION[version], PROTOCOL_OF_VERSION[version])
    assert octets == offer.encode()


@pytest.mark.parametrize("version", [-1, 0, 1, 7])
def test_versions_that_do_not_exist(version: int) -> None:
    with pytest.raises(LocalError):
        MtaConnection(version=version)
    with pytest.raises(LocalError):
        MilterConnection(version=version)


def test_macro_lists_reach_the_mta() -> None:
    lists = {Stage.MAIL: ("i", "{auth_authen}"), Stage.END_OF_MESSAGE: (), Stage.CONNECT: ("j",)}
    milter = MilterConnection(macros=lists)
    mta = MtaConnection()
    milter.receive(mta.negotiate())
    mta.receive(milter.negotiate())
    assert mta.wanted == lists
    assert Actions.SETSYMLIST in mta.agreed_actions


def test_macro_lists_go_only_to_an_mta_that_takes_them() -> None:
    milter = MilterConnection(macros={Stage.MAIL: ("i",)})
    mta = MtaConnection(actions=Actions.ADDHDRS)
    milter.receive(mta.negotiate())
    mta.receive(milter.negotiate())
    assert mta.wanted == {}
    assert mta.agreed_actions == Actions.NONE


@pytest.mark.parametrize(
    "answer",
    [
        m.Negotiate(0, Actions(0), Protocol(0)),
        m.Negotiate(1, Actions(0), Protocol(0)),
        m.Negotiate(5, Actions(0), Protocol(0)),
        m.Negotiate(99, Actions(0), Protocol(0)),
        m.Negotiate(4, Actions(0x200), Protocol(0)),
        m.Negotiate(4, Actions.CHGFROM, Protocol(0)),
    ],
)
def test_mta_refuses_an_answer(answer: m.Negotiate) -> None:
    mta = MtaConnection(version=4)
    mta.negotiate()
    with pytest.raises(PeerError):
        mta.receive(answer.encode())


def test_mta_wants_the_negotiation_answered_first() -> None:
    mta = MtaConnection()
    mta.negotiate()
    with pytest.raises(PeerError):
        mta.receive(m.Continue().encode())


def test_mta_refuses_a_second_answer() -> None:
    mta = negotiated_mta()
    with pytest.raises(PeerError):
        mta.receive(m.Negotiate(6, Actions(0), Protocol(0)).encode())
    mta = negotiated_mta()
    mta.send(m.Connect(b"x"))
    with pytest.raises(PeerError):
        mta.receive(m.Negotiate(6, Actions(0), Protocol(0)).encode())


def test_flags_that_were_not_offered_are_noted_and_dropped() -> None:
    mta = MtaConnection(version=2)
    mta.negotiate()
    mta.receive(m.Negotiate(2, Actions(0), Protocol(0x40000000) | Protocol.NOHELO).encode())
    assert mta.violations == ("protocol flags that were not offered",)
    assert mta.agreed_protocol == Protocol.NOHELO


def test_macro_lists_that_were_not_offered_are_noted() -> None:
    mta = MtaConnection(actions=Actions.NONE)
    mta.negotiate()
    mta.receive(m.Negotiate(6, Actions(0), Protocol(0), {Stage.MAIL: ("i",)}).encode())
    assert mta.violations == ("macro lists that were not offered",)


def test_mta_negotiates_once_and_first() -> None:
    mta = MtaConnection()
    with pytest.raises(LocalError):
        mta.send(m.Connect(b"x"))
    mta = negotiated_mta()
    with pytest.raises(LocalError):
        mta.negotiate()
    mta = MtaConnection()
    with pytest.raises(LocalError):
        mta.send(m.Negotiate(6, Actions(0), Protocol(0)))


@pytest.mark.parametrize("version", [0, 1])
def test_milter_refuses_an_old_offer(version: int) -> None:
    with pytest.raises(PeerError):
        MilterConnection().receive(m.Negotiate(version, Actions(0), Protocol(0)).encode())


def test_milter_answers_a_newer_offer_with_its_own_version() -> None:
    milter = MilterConnection(accept_actions=Actions.ALL)
    milter.receive(m.Negotiate(99, Actions(0xFFFFFFFF), Protocol(0xFFFFFFFF)).encode())
    assert milter.negotiate() == m.Negotiate(6, Actions.ALL, Protocol.NONE).encode()


@pytest.mark.parametrize(
    "first", [m.Connect(b"x"), m.Abort(), m.QuitNewConnection(), m.Data()], ids=str
)
def test_milter_wants_the_offer_first(first: m.CommandMessage) -> None:
    with pytest.raises(PeerError):
        MilterConnection().receive(first.encode())


def test_milter_refuses_macros_before_the_offer() -> None:
    with pytest.raises(PeerError):
        MilterConnection().receive(b"\0\0\0\x02DC")


def test_milter_refuses_a_second_offer() -> None:
    milter = negotiated_milter()
    with pytest.raises(PeerError):
        milter.receive(m.Negotiate(6, Actions(0), Protocol(0)).encode())


def test_milter_answers_the_offer_once() -> None:
    with pytest.raises(LocalError):
        MilterConnection().negotiate()
    milter = negotiated_milter()
    with pytest.raises(LocalError):
        milter.negotiate()


def test_quit_before_any_offer_is_a_health_check() -> None:
    milter = MilterConnection()
    assert milter.receive(m.Quit().encode()) == [m.Quit()]
    assert milter.state is State.CLOSED


def test_what_the_same_answer_comes_to_is_one_object() -> None:
    usual = m.Negotiate(6, Actions.ADDHDRS, Protocol.NOHELO, {Stage.MAIL: ("i",)})
    found = []
    for answer in (usual, usual, replace(usual, protocol=Protocol.NOHELO | Protocol(1 << 30))):
        mta = MtaConnection()
        mta.negotiate()
        mta.receive(answer.encode())
        found.append(mta)
    one, two, other = found
    assert one.agreement is two.agreement
    assert (one.violations, two.violations) == ((), ())
    assert other.agreement is not one.agreement
    assert other.violations == (NOT_OFFERED,)
    narrow = MtaConnection(protocol=Protocol.NONE)
    narrow.negotiate()
    narrow.receive(usual.encode())
    assert narrow.violations == (NOT_OFFERED,)
    assert m.Helo not in narrow.unsent


def test_an_answer_of_usual_length_is_one_object_and_a_long_one_is_not_kept() -> None:
    for names in (("j", "i"), ("{auth_authen}",)):
        octets = m.Negotiate(6, Actions.ADDHDRS, Protocol.NOHELO, {Stage.MAIL: names}).encode()[5:]
        assert decode_negotiate(octets) is decode_negotiate(octets)
        assert decode_negotiate(octets).macros == {Stage.MAIL: names}
    many = tuple(f"{{x{number}}}" for number in range(300))
    octets = m.Negotiate(6, Actions.NONE, Protocol.NONE, {Stage.MAIL: many}).encode()[5:]
    assert decode_negotiate(octets) == decode_negotiate(octets)
    assert decode_negotiate(octets) is not decode_negotiate(octets)
    with pytest.raises(PeerError):
        decode_negotiate(b"short")
