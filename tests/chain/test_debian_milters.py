"""Debian's OpenDKIM and clamav-milter in our chain: signed, scanned, refused (show 4)."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import pytest

from milterd.core.decision import Verdict
from milterd.core.mail import (
    BytesBody,
    Envelope,
    FileBody,
    HeaderField,
    Mail,
    Recipient,
    body_octets,
    parse_message,
)
from smtpgw.chain import Chain, MilterOptions
from tests.chain.scripted import SESSION, ChainResult, chain_of, run, transact, walk
from tests.peers.clamav_milter import Milter
from tests.peers.clamd import Clamd
from tests.peers.mail_dkim import verify as mail_dkim_verify
from tests.peers.opendkim import Key

HEAD = (
    b"From: Somebody <s@example.net>\r\n"
    b"To: a@example.net\r\n"
    b"Subject:  Gr\xc3\xbc\xc3\x9fe,\r\n\tfolded\r\n"
    b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Message-ID: <%d@example.net>\r\n"
    b"\r\n"
)
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def mail(body: bytes, number: int = 1) -> Mail:
    parsed = parse_message(HEAD % number + body)
    ours = HeaderField(b"Received", b" from x by mx.example.net; date", hidden=True)
    recipients = (Recipient(b"a@example.net"),)
    return replace(
        parsed.with_headers([ours, *parsed.headers]),
        session=SESSION,
        envelope=Envelope(b"s@example.net", (), recipients),
    )


def both(clamav: Milter, dkim: Milter) -> Chain:
    return chain_of(
        MilterOptions("clamav", clamav.address), MilterOptions("opendkim", dkim.address)
    )


def test_clean_mail_is_scanned_signed_and_the_signature_verifies(
    clamav_milter: Milter, opendkim: Milter, dkim_key: Key
) -> None:
    async def main() -> list[ChainResult]:
        chain = both(clamav_milter, opendkim)
        results = [await walk(chain, mail(b"hello\r\n.\r\nend\r\n"), "Q1")]
        # The same connections serve a second message, its body in a file and in pieces.
        results.append(await transact(chain, mail(b"x" * 70 + b"\r\n", 2), "Q2"))
        await chain.close()
        assert all(isinstance(each, ChainResult) for each in results)
        return [each for each in results if isinstance(each, ChainResult)]

    for result in run(main()):
        assert result.verdict is Verdict.CONTINUE, result.reasons
        assert [name for name, _ in result.edits] == ["clamav", "opendkim"]
        assert result.mail.values(b"X-Virus-Scanned")
        assert result.mail.values(b"X-Virus-Status") == [b" Clean"]
        delivered = b"".join(result.mail.pieces())
        verdicts = mail_dkim_verify(delivered, dkim_key.records)
        assert [each["result"] for each in verdicts] == ["pass"]


def test_a_large_body_in_a_file_arrives_whole(
    clamav_milter: Milter, opendkim: Milter, dkim_key: Key
) -> None:
    octets = b"".join(b"%06d " % n + b"y" * 60 + b"\r\n" for n in range(20_000))

    async def main() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"skipped" + octets)
            file.flush()
            big = replace(mail(b"", 3), body=FileBody(file, 7, len(octets)))
            chain = both(clamav_milter, opendkim)
            result = await walk(chain, big, "Q3")
            await chain.close()
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE, result.reasons
            delivered = b"".join(result.mail.pieces())
            assert delivered.endswith(octets)
            assert [e["result"] for e in mail_dkim_verify(delivered, dkim_key.records)] == ["pass"]

    run(main())


@pytest.mark.parametrize("size", [65_000, 65_535, 70_000, 100_000])
def test_a_field_longer_than_a_packet_is_no_reason_to_defer(
    clamav_milter: Milter, size: int
) -> None:
    plain = mail(b"hello\r\n", 9)
    long = HeaderField(b"X-Long", b" " + b"\r\n\t".join([b"z" * 900] * (size // 903)))
    exact = HeaderField(b"X-Exact", b" " + b"z" * (size - 8))

    async def main() -> None:
        for each in (long, exact):
            chain = chain_of(MilterOptions("clamav", clamav_milter.address))
            result = await walk(chain, plain.with_headers([*plain.headers, each]), "Q9")
            await chain.close()
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE, result.reasons
            assert each in result.mail.headers

    run(main())


@pytest.mark.parametrize("where", ["first", "second"])
def test_eicar_is_refused_with_clamav_milters_own_reply(
    clamav_milter: Milter, opendkim: Milter, where: str
) -> None:
    infected = mail(
        b'\r\n--x\r\nContent-Type: application/octet-stream; name="e.com"\r\n\r\n'
        + EICAR
        + b"\r\n--x--\r\n",
        4,
    ).with_headers(
        [*mail(b"").headers, HeaderField(b"Content-Type", b' multipart/mixed; boundary="x"')]
    )

    async def main() -> None:
        chain = both(clamav_milter, opendkim)
        if where == "second":
            assert (await walk(chain, mail(b"clean\r\n", 5), "Q4")).verdict is Verdict.CONTINUE
            result = await transact(chain, infected, "Q5")
        else:
            result = await walk(chain, infected, "Q5")
        assert isinstance(result, ChainResult)
        assert result.verdict is Verdict.REJECT
        assert str(result.reply) == "550 5.7.1 infected: Eicar-Test-Signature.UNOFFICIAL"
        assert result.reasons[-1].source == "milter clamav"
        assert result.mail.headers == infected.headers
        # The refusal of one message is not that of the next.
        assert (await transact(chain, mail(b"clean\r\n", 6), "Q6")).verdict is Verdict.CONTINUE
        await chain.close()

    run(main())


def test_a_scanner_that_does_not_answer_defers_the_mail(
    clamd: Clamd, clamav_milter: Milter
) -> None:
    """A stopped milter process: SIGSTOP keeps its socket and answers nothing (F08)."""
    options = MilterOptions(
        "clamav", clamav_milter.address, command_timeout=0.5, content_timeout=0.5
    )

    async def main() -> None:
        clamav_milter.peer.pause()
        try:
            result = await walk(chain_of(options), mail(b"hello\r\n"), "Q7")
        finally:
            clamav_milter.peer.resume()
        assert str(result.reply) == "451 4.7.1 Service unavailable - try again later"
        chain = chain_of(MilterOptions("clamav", clamav_milter.address))
        again = await walk(chain, mail(b"hello\r\n"), "Q8")
        assert isinstance(again, ChainResult)
        assert again.verdict is Verdict.CONTINUE
        assert body_octets(again.mail.body) == body_octets(BytesBody(b"hello\r\n"))
        await chain.close()

    run(main())
