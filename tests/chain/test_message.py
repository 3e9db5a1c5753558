"""What a milter is shown, in what order and how many writes, and what its edits make of a mail."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import pytest

from milterd.core.actions import AddHeader, ChangeHeader
from milterd.core.decision import Verdict
from milterd.core.mail import BytesBody, FileBody, HeaderField, body_octets
from milterd.wire import messages as m
from milterd.wire.constants import Protocol, Stage
from tests.chain.scripted import (
    MAIL,
    NOTHING_DUE,
    SESSION,
    ChainResult,
    chain_of,
    run,
    scripted,
    until,
    walk,
)


def test_postfix_order_and_the_hidden_received() -> None:
    async def main() -> None:
        async with scripted() as one:
            chain = chain_of(one.options())
            result = await walk(chain)
            await chain.close()
            await until(lambda: one.ended)
            assert isinstance(result, ChainResult)
            assert one.events[1:] == [
                m.Connect(b"client.example.org", SESSION.client.family, 4321, b"192.0.2.7"),
                m.Helo(b"client.example.org"),
                m.MailFrom(b"<s@example.org>", (b"SIZE=10",)),
                m.RcptTo(b"<a@example.net>"),
                m.RcptTo(b"<b@example.net>"),
                m.Data(),
                m.Header(b"Received", b"from them\n\tby others"),
                m.Header(b"Subject", b" two spaces"),
                m.Header(b"From", b"s@example.org"),
                m.Header(b"X-Tab", b"\tafter"),
                m.EndOfHeaders(),
                m.BodyChunk(b"line one\r\n.dot\r\n"),
                m.EndOfMessage(),
                m.Abort(),
                m.Quit(),
            ]
            assert result.mail == MAIL
            # What nobody edits is the very object that came.
            assert result.mail.headers is MAIL.headers
            assert result.mail.body is MAIL.body

    run(main())


def test_leading_space_is_kept_for_those_who_ask() -> None:
    async def main() -> None:
        edits = [m.AddHeaderReply(b"X-A", b"\tv"), m.AddHeaderReply(b"X-B", b"v"), m.Continue()]
        async with scripted({m.EndOfMessage: edits}, protocol=Protocol.HDR_LEADSPC) as one:
            result = await walk(chain_of(one.options()))
            assert m.Header(b"Subject", b"  two spaces") in one.events
            assert isinstance(result, ChainResult)
            assert result.mail.headers[-2:] == (
                HeaderField(b"X-A", b"\tv"),
                HeaderField(b"X-B", b"v"),
            )

    run(main())


def test_nul_in_a_field_is_shown_as_a_space_and_kept() -> None:
    odd = MAIL.with_headers([HeaderField(b"Subject", b" a\0b")])

    async def main() -> None:
        async with scripted() as one:
            result = await walk(chain_of(one.options()), odd)
            assert isinstance(result, ChainResult)
            assert m.Header(b"Subject", b"a b") in one.events
            assert result.mail.headers is odd.headers

    run(main())


def test_content_goes_out_in_one_write_when_no_reply_is_due() -> None:
    many = MAIL.with_headers(HeaderField(b"X-%d" % n, b" v") for n in range(300))

    async def main() -> None:
        async with scripted(protocol=NOTHING_DUE) as one:
            assert (await walk(chain_of(one.options()), many)).verdict is Verdict.CONTINUE
            assert one.kinds.count("Header") == 300
            # Negotiation, connect, helo, mail, two recipients, data, and all the content at once.
            await until(lambda: "Abort" in one.kinds)
            assert len(one.reads) <= 9

    run(main())


def test_a_long_body_comes_in_pieces_that_libmilter_takes() -> None:
    octets = bytes(range(256)) * 1200

    async def main() -> None:
        async with scripted(protocol=NOTHING_DUE) as one, scripted() as two:
            mail = replace(MAIL, body=BytesBody(octets))
            await walk(chain_of(one.options(), two.options("two")), mail)
            for each in (one, two):
                chunks = [e.octets for e in each.events if isinstance(e, m.BodyChunk)]
                assert [len(chunk) for chunk in chunks] == [65535] * 4 + [len(octets) - 4 * 65535]
                assert b"".join(chunks) == octets

    run(main())


@pytest.mark.parametrize("size", [0, 1, 65534, 65535, 65536])
def test_bodies_at_the_edges_of_a_piece(size: int) -> None:
    octets = (b"x" * 77 + b"\r\n") * (size // 79 + 1)

    async def main() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"head" + octets[:size])
            file.flush()
            mail = replace(MAIL, body=FileBody(file, 4, size))
            async with scripted() as one:
                result = await walk(chain_of(one.options()), mail)
                assert isinstance(result, ChainResult)
                chunks = [e.octets for e in one.events if isinstance(e, m.BodyChunk)]
                assert b"".join(chunks) == octets[:size] == body_octets(result.mail.body)

    run(main())


def test_a_mail_without_header_or_body() -> None:
    empty = replace(MAIL, headers=(), body=BytesBody(), separator=b"")

    async def main() -> None:
        async with scripted() as one:
            result = await walk(chain_of(one.options()), empty)
            assert result.verdict is Verdict.CONTINUE
            assert one.kinds[7:9] == ["EndOfHeaders", "EndOfMessage"]

    run(main())


def test_skip_ends_the_body_for_that_milter() -> None:
    mail = replace(MAIL, body=BytesBody(b"x" * 400_000))

    async def main() -> None:
        async with scripted({m.BodyChunk: m.Skip()}, protocol=Protocol.SKIP) as one:
            assert (await walk(chain_of(one.options()), mail)).verdict is Verdict.CONTINUE
            assert one.kinds.count("BodyChunk") == 1
            assert one.kinds.count("EndOfMessage") == 1

    run(main())


@pytest.mark.parametrize(
    ("flag", "gone"),
    [
        (Protocol.NOCONNECT, "Connect"),
        (Protocol.NOHELO, "Helo"),
        (Protocol.NOMAIL, "MailFrom"),
        (Protocol.NORCPT, "RcptTo"),
        (Protocol.NODATA, "Data"),
        (Protocol.NOHDRS, "Header"),
        (Protocol.NOEOH, "EndOfHeaders"),
        (Protocol.NOBODY, "BodyChunk"),
    ],
)
def test_events_nobody_wants_are_not_sent(flag: Protocol, gone: str) -> None:
    async def main() -> None:
        async with scripted(protocol=flag) as one:
            assert (await walk(chain_of(one.options()))).verdict is Verdict.CONTINUE
            assert gone not in one.kinds
            assert "EndOfMessage" in one.kinds

    run(main())


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_old_milters_are_spoken_to_in_their_version(version: int) -> None:
    async def main() -> None:
        async with scripted(version=version) as one:
            assert (await walk(chain_of(one.options()))).verdict is Verdict.CONTINUE
            assert ("Data" in one.kinds) is (version >= 4)

    run(main())


# --- macros ---


def test_postfix_macro_sets_at_their_stages() -> None:
    async def main() -> None:
        async with scripted() as one:
            chain = chain_of(one.options())
            facts = {"client_ptr": b"ptr.example.org", "client_connections": b"3"}
            await chain.connect(replace(SESSION, macros=facts))
            await chain.helo(
                b"h", {"tls_version": b"TLSv1.3", "cipher": b"X", "cipher_bits": b"256"}
            )
            auth = {"auth_authen": b"user", "auth_type": b"PLAIN", "i": b"early"}
            await chain.mail(b"s@example.org", (), auth)
            await chain.rcpt(b"a@example.net", (), {"rcpt_mailer": b"lmtp"})
            await chain.data()
            await chain.message(MAIL, "Q9")
            assert one.macros_before(m.Connect) == {
                b"j": b"mx.example.net",
                b"{daemon_name}": b"mx",
                b"v": b"Gatepost 1",
                b"_": b"ptr.example.org [192.0.2.7] (may be forged)",
            }
            assert one.macros_before(m.Helo) == {
                b"{tls_version}": b"TLSv1.3",
                b"{cipher}": b"X",
                b"{cipher_bits}": b"256",
            }
            assert one.macros_before(m.MailFrom) == {
                b"i": b"early",
                b"{auth_type}": b"PLAIN",
                b"{auth_authen}": b"user",
                b"{mail_addr}": b"s@example.org",
                b"{mail_host}": b"example.org",
            }
            assert one.macros_before(m.RcptTo) == {
                b"i": b"early",
                b"{rcpt_addr}": b"a@example.net",
                b"{rcpt_host}": b"example.net",
                b"{rcpt_mailer}": b"lmtp",
            }
            for kind in (m.Header, m.EndOfHeaders, m.BodyChunk, m.EndOfMessage):
                assert one.macros_before(kind) == {b"i": b"Q9"}

    run(main())


def test_a_milters_own_macro_lists_take_the_place_of_the_default_ones() -> None:
    lists = {
        Stage.CONNECT: ("{client_addr}", "{client_name}", "{client_port}", "{no_such}"),
        Stage.MAIL: ("{mail_addr}", "{client_addr}", "i"),
        Stage.END_OF_MESSAGE: (),
    }

    async def main() -> None:
        async with scripted(macros=lists) as one:
            await walk(chain_of(one.options(macro_daemon_name="ORIGINATING")))
            assert one.macros_before(m.Connect) == {
                b"{client_addr}": b"192.0.2.7",
                b"{client_name}": b"client.example.org",
                b"{client_port}": b"4321",
            }
            # The queue id was not known at MAIL, so `i` is absent there.
            assert one.macros_before(m.MailFrom) == {
                b"{mail_addr}": b"s@example.org",
                b"{client_addr}": b"192.0.2.7",
            }
            assert one.macros_before(m.EndOfMessage) == {}
            # The macros for the end of the header come before its first field.
            for kind in (m.Header, m.EndOfHeaders):
                assert one.macros_before(kind) == {b"i": b"Q1"}

    run(main())


def test_a_milters_daemon_name_is_its_own() -> None:
    async def main() -> None:
        async with scripted() as one, scripted() as two:
            mine = one.options(macro_daemon_name="ORIGINATING")
            await walk(chain_of(mine, two.options("two")))
            assert one.macros_before(m.Connect)[b"{daemon_name}"] == b"ORIGINATING"
            assert two.macros_before(m.Connect)[b"{daemon_name}"] == b"mx"

    run(main())


def test_a_client_without_a_verified_name() -> None:
    client = replace(SESSION.client, name=b"[192.0.2.7]")

    async def main() -> None:
        async with scripted(macros={Stage.CONNECT: ("{client_name}", "_")}) as one:
            chain = chain_of(one.options())
            await chain.connect(replace(SESSION, client=client))
            assert one.events[1] == m.Connect(b"[192.0.2.7]", client.family, 4321, b"192.0.2.7")
            assert one.macros_before(m.Connect) == {
                b"{client_name}": b"unknown",
                b"_": b"unknown [192.0.2.7]",
            }

    run(main())


# --- edits, one milter after the other ---


def test_each_milter_sees_the_mail_as_those_before_it_left_it() -> None:
    first = [
        m.InsertHeaderReply(1, b"X-First", b"1"),
        m.ChangeHeaderReply(1, b"Subject", b"changed\n\ttwice"),
        m.ChangeHeaderReply(1, b"X-Tab", b""),
        m.ReplaceBodyChunk(b"new\r\n"),
        m.Accept(),
    ]
    second = [
        m.AddHeaderReply(b"X-Second", b"2"),
        m.ChangeHeaderReply(1, b"X-First", b""),
        m.Continue(),
    ]

    async def main() -> None:
        async with (
            scripted({m.EndOfMessage: first}) as one,
            scripted({m.EndOfMessage: second}) as two,
        ):
            result = await walk(chain_of(one.options(), two.options("two")))
            assert isinstance(result, ChainResult)
            shown = [each for each in two.events if isinstance(each, m.Header | m.BodyChunk)]
            assert shown == [
                # Below our own Received, which nobody is shown but insertions count.
                m.Header(b"X-First", b"1"),
                m.Header(b"Received", b"from them\n\tby others"),
                m.Header(b"Subject", b"changed\n\ttwice"),
                m.Header(b"From", b"s@example.org"),
                m.BodyChunk(b"new\r\n"),
            ]
            assert result.mail.headers == (
                MAIL.headers[0],
                MAIL.headers[1],
                HeaderField(b"Subject", b" changed\r\n\ttwice"),
                MAIL.headers[3],
                HeaderField(b"X-Second", b" 2"),
            )
            assert [name for name, _ in result.edits] == ["one", "two"]
            assert result.edits[1][1] == (
                AddHeader(b"X-Second", b" 2"),
                ChangeHeader(b"X-First", 1, b""),
            )

    run(main())


def test_the_edits_of_one_stand_where_the_next_fails() -> None:
    async def main() -> None:
        edits = [m.AddHeaderReply(b"X", b"1"), m.Continue()]
        broken = m.AddHeaderReply(b"Y", b"2").encode() + b"\0\0\0\0"
        async with (
            scripted({m.EndOfMessage: edits}) as one,
            scripted({m.EndOfMessage: broken}) as two,
        ):
            result = await walk(
                chain_of(one.options(), two.options("two", default_action="accept"))
            )
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE
            assert result.mail.headers == (*MAIL.headers, HeaderField(b"X", b" 1"))
            assert [name for name, _ in result.edits] == ["one"]

    run(main())
