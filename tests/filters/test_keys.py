"""Key files: what is taken, what is refused with which words, and that keys stay secret."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from milterd.filters import FILTERS, Clocks
from milterd.filters.dkim import DkimOptions, SigningKey
from milterd.filters.setup import SetupError
from milterd.ports.keys import Ed25519Key, KeyFileError, RsaKey, load

PRIVATE = serialization.PrivateFormat


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def store(
    path: Path,
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    form: PRIVATE = PRIVATE.PKCS8,
    secret: bytes = b"",
) -> Path:
    lock = serialization.BestAvailableEncryption(secret) if secret else None
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, lock or serialization.NoEncryption())
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("form", [PRIVATE.PKCS8, PRIVATE.TraditionalOpenSSL])
def test_rsa_in_both_forms(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, form: PRIVATE) -> None:
    key = load(store(tmp_path / "k", rsa_key, form))
    assert isinstance(key, RsaKey)
    assert (key.algorithm, key.record[:19]) == ("rsa-sha256", "v=DKIM1; k=rsa; p=M")
    digest = hashlib.sha256(b"text").digest()
    rsa_key.public_key().verify(key.sign(digest), b"text", padding.PKCS1v15(), hashes.SHA256())


def test_ed25519_as_pem_and_as_a_seed(tmp_path: Path) -> None:
    secret = ed25519.Ed25519PrivateKey.generate()
    pem = load(store(tmp_path / "pem", secret))
    seed = tmp_path / "seed"
    seed.write_bytes(base64.b64encode(secret.private_bytes_raw()) + b"\n")
    seed.chmod(0o600)
    assert isinstance(pem, Ed25519Key)
    digest = hashlib.sha256(b"text").digest()
    assert pem.record == load(seed).record
    secret.public_key().verify(load(seed).sign(digest), digest)


def test_what_opendkim_genkey_makes_is_taken(tmp_path: Path) -> None:
    subprocess.run(
        ["opendkim-genkey", "-b", "2048", "-d", "example.net", "-s", "s", "-D", str(tmp_path)],
        check=True,
    )
    record = load(tmp_path / "s.private").record
    published = (tmp_path / "s.txt").read_text().replace('"', "").split()
    assert record.rpartition("p=")[2][-80:] in "".join(published)


def refusal(path: Path, groups: frozenset[str] = frozenset()) -> str:
    with pytest.raises(KeyFileError) as caught:
        load(path, groups)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    return caught.value.problem


@pytest.mark.parametrize("mode", [0o604, 0o601, 0o602, 0o620, 0o610, 0o644, 0o777])
def test_a_key_others_can_reach_is_refused(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey, mode: int
) -> None:
    path = store(tmp_path / "k", rsa_key)
    path.chmod(mode)
    assert refusal(path) == f"has mode {mode:04o}: others can reach it"


def test_groups_and_owners_must_be_trusted(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    path = store(tmp_path / "k", rsa_key)
    path.chmod(0o640)
    assert isinstance(load(path), RsaKey)
    os.chown(path, 0, 8)
    assert refusal(path) == "has mode 0640: group mail can read it"
    assert isinstance(load(path, frozenset({"mail"})), RsaKey)
    os.chown(path, 0, 54_321)
    assert refusal(path) == "has mode 0640: group 54321 can read it"
    os.chown(path, 8, 0)
    path.chmod(0o600)
    assert refusal(path) == "belongs to user 8"


def test_what_is_no_usable_key_is_refused(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    assert refusal(tmp_path / "none") == "cannot be read (No such file or directory)"
    assert refusal(tmp_path) == "is not a regular file"
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "pipe") == "is not a regular file"
    curve = store(tmp_path / "curve", ec.generate_private_key(ec.SECP256R1()))
    assert refusal(curve) == "is neither an RSA nor an Ed25519 key"
    locked = store(tmp_path / "locked", rsa_key, secret=b"x")
    assert refusal(locked) == "is protected by a passphrase"


def test_rsa_keys_too_short_or_too_long_are_refused(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(tmp_path / "k", rsa_key)
    monkeypatch.setattr("milterd.ports.keys.MAX_RSA_BITS", 2047)
    assert refusal(path) == "is an RSA key of 2048 bits, expected 1024 to 2047"
    short = tmp_path / "short"
    command = ["openssl", "genrsa", "-out", str(short), "768"]
    subprocess.run(command, check=True, capture_output=True)
    short.chmod(0o600)
    assert refusal(short) in (
        "is an RSA key of 768 bits, expected 1024 to 2047",
        "holds no private key that can be read",
    )


@pytest.mark.parametrize(
    "text", [b"", b"c2VjcmV0", b"secret words", b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n", b"\xff"]
)
def test_an_error_never_quotes_the_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        load(path)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "c2Vj" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_does_not_show_itself(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    path = store(tmp_path / "k", rsa_key)
    built = FILTERS["dkim"].build(DkimOptions((SigningKey("example.net", "s", path),)), Clocks())
    numbers = rsa_key.private_numbers()
    for shown in (repr(load(path)), repr(built), repr(vars(built))):
        assert str(numbers.d) not in shown
        assert "RSAPrivateKey" not in shown


def test_a_filter_with_bad_rows_says_all_that_is_wrong(tmp_path: Path) -> None:
    rows = (
        SigningKey("example.net", "s", tmp_path / "a"),
        SigningKey("example.net", "s", tmp_path / "b"),
        SigningKey("exämple.net", "s", tmp_path / "c"),
        SigningKey("example.net", "a b;c", tmp_path / "d"),
        SigningKey("example.net\n", "t", tmp_path / "e"),
    )
    with pytest.raises(SetupError) as caught:
        FILTERS["dkim"].build(DkimOptions(rows), Clocks())
    text = "\n".join(caught.value.problems)
    for expected in ("'exämple.net'", "'a b;c'", "selector s twice", r"'example.net\n'"):
        assert expected in text
    assert all(str(row.key) in text for row in rows)


def test_an_empty_table_is_pointed_out() -> None:
    built = FILTERS["dkim"].build(DkimOptions(), Clocks())
    assert built.check() == ("the signing table is empty: nothing will be signed",)
