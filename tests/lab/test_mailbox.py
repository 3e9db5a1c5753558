"""What is sent: files, mboxes, Maildirs, and what is wrong with one of them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import Envelope, parse_message
from milterd.lab import mailbox
from milterd.lab.mailbox import Message, messages
from milterd.lab.outbox import Outbox
from tests.peers.process import directory

_words = st.sampled_from(
    [
        b"12345678>From x",
        b"12345678From x",
        b"From x",
        b">From x",
        b">>From",
        b">>From y",
        b"",
        b"text",
        b"\xff\xfe",
    ]
)
_lines = st.lists(st.one_of(_words, st.binary(max_size=12)), max_size=8)
_texts = _lines.map(
    lambda lines: b"".join(
        line.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n" for line in [b"Subject: x", *lines]
    )
)


def _read(path: Path) -> list[bytes]:
    found = list(messages(path))
    assert not [each.fault for each in found if each.fault]
    return [each.octets for each in found]


@given(st.lists(_texts, min_size=1, max_size=4), st.sampled_from([8, 16, 65536]))
def test_an_mbox_that_was_written_is_read_back(texts: list[bytes], chunk: int) -> None:
    with directory("mbox") as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox, "_LINE", chunk)
        box = Outbox(str(home / "box"), several=True)
        for each in texts:
            mail = parse_message(each)
            box.put(mail)
        assert _read(home / "box") == texts


def test_an_mbox_of_others(tmp_path: Path) -> None:
    path = tmp_path / "box"
    path.write_bytes(
        b"From a@b Thu Jan  1 00:00:00 1970\r\nSubject: crlf\r\n\r\n>From me\r\n>>From you\r\n"
        b"From within\r\n\r\n"
        b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970\n\nno header\n>Fromage\n"
        b"\nFrom c\nSubject: no end"
    )
    found = list(messages(path))
    assert [each.name for each in found] == [f"{path}, message {number}" for number in (1, 2, 3)]
    assert [each.octets for each in found] == [
        b"Subject: crlf\r\n\r\nFrom me\r\n>From you\r\nFrom within\r\n",
        b"\r\nno header\r\n>Fromage\r\n",
        b"Subject: no end",
    ]


def test_a_maildir_in_order(tmp_path: Path) -> None:
    for name in ("cur/2:2,S", "cur/1:2,", "new/0", "tmp/x", "cur/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(f"Subject: {name}\n\n".encode())
    (tmp_path / "cur/3:2,").symlink_to(tmp_path / "nowhere")
    found = list(messages(tmp_path))
    assert [Path(each.name).name for each in found] == ["1:2,", "2:2,S", "3:2,", "0"]
    assert found[0].octets == b"Subject: cur/1:2,\r\n\r\n"
    assert found[2].fault == "No such file or directory"


def test_what_is_none_is_named(tmp_path: Path) -> None:
    assert list(messages(tmp_path / "none")) == [
        Message(str(tmp_path / "none"), fault="No such file or directory")
    ]
    (found,) = messages(tmp_path)
    assert "no Maildir" in found.fault


@pytest.mark.parametrize("start", [b"", b"From x\n"])
def test_a_message_over_the_limit_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(mailbox, "LIMIT", 1000)
    path = tmp_path / "long"
    path.write_bytes(start + b"x" * 1001 + b"\n\nFrom y\nSubject: small\n\n")
    found = list(messages(path))
    assert found[0].fault == "over 1000 octets"
    assert [each.octets for each in found[1:]] == ([b"Subject: small\r\n"] if start else [])


def test_standard_input_may_be_an_mbox(monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(b"From a\nSubject: 1\n\nFrom b\nSubject: 2\n")

    monkeypatch.setattr(sys, "stdin", Input)
    assert [each.name for each in messages(Path("-"))] == ["-, message 1", "-, message 2"]


def test_a_directory_takes_a_file_for_each(tmp_path: Path) -> None:
    for each in (b"Subject: 1\r\n\r\n", b"Subject: 2\r\n\r\n"):
        box = Outbox(f"{tmp_path}/new/", several=True)
        box.put(parse_message(each))
    box.put(parse_message(b"Subject: 3\r\n\r\n"))
    written = {each.name: each.read_bytes() for each in (tmp_path / "new").iterdir()}
    assert written == {
        "00001.eml": b"Subject: 2\r\n\r\n",
        "00002.eml": b"Subject: 3\r\n\r\n",
    }


def test_an_mbox_is_begun_anew_and_names_its_senders(tmp_path: Path) -> None:
    path = tmp_path / "box"
    path.write_bytes(b"old")
    box = Outbox(str(path), several=True)
    mail = parse_message(b"Subject: x\r\n\r\n")
    for sender in (b"", b'"a b"@example.net'):
        box.put(type(mail)(envelope=Envelope(sender), headers=mail.headers, body=mail.body))
    lines = path.read_bytes().splitlines()
    assert [each for each in lines if each.startswith(b"From ")] == [
        b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970",
        b'From "a-b"@example.net Thu Jan  1 00:00:00 1970',
    ]
