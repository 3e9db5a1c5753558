"""Peers as fixtures, one of each for a test; import the context managers for more or other ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import clamav_milter as _clamav_milter
from tests.peers import clamd as _clamd
from tests.peers import dovecot as _dovecot
from tests.peers import opendkim as _opendkim
from tests.peers import postfix as _postfix
from tests.peers import smtp_sink as _smtp_sink
from tests.peers.process import directory


@pytest.fixture
def peer_directory() -> Iterator[Path]:
    """A private directory with a path short enough for UNIX sockets."""
    with directory("peer") as path:
        yield path


@pytest.fixture(scope="session")
def clamd() -> Iterator[_clamd.Clamd]:
    """A clamd with the project's own signatures, shared by the tests of a session: do not stop
    or pause it (run one of your own for that)."""
    with directory("clamd") as home, _clamd.clamd(home) as peer:
        yield peer


@pytest.fixture
def clamav_milter(peer_directory: Path, clamd: _clamd.Clamd) -> Iterator[_clamav_milter.Milter]:
    """clamav-milter, rejecting what is infected."""
    with _clamav_milter.clamav_milter(peer_directory, clamd) as peer:
        yield peer


@pytest.fixture
def dkim_key(peer_directory: Path) -> _opendkim.Key:
    """An RSA key for example.net, made by OpenDKIM."""
    return _opendkim.make_key(peer_directory)


@pytest.fixture
def opendkim(peer_directory: Path, dkim_key: _opendkim.Key) -> Iterator[_clamav_milter.Milter]:
    """OpenDKIM signing for example.net with `dkim_key`."""
    with _opendkim.opendkim(peer_directory, "s", key=dkim_key) as peer:
        yield peer


@pytest.fixture
def postfix() -> Iterator[_postfix.Postfix]:
    """A private Postfix that discards what it accepts."""
    with _postfix.postfix() as peer:
        yield peer


@pytest.fixture
def dovecot() -> Iterator[_dovecot.Dovecot]:
    """Dovecot's LMTP server with the one user u@example.net."""
    with _dovecot.dovecot() as peer:
        yield peer


@pytest.fixture
def smtp_sink(peer_directory: Path) -> Iterator[_smtp_sink.SmtpSink]:
    """A next hop that takes everything."""
    with _smtp_sink.smtp_sink(peer_directory) as peer:
        yield peer
