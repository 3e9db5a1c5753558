"""From what Postfix tells a policy service to the facts that our restrictions look at."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from milterd.core.mail import Client, Family
from smtpgw.edge.names import UNKNOWN_NAME, NameStatus, PeerName
from smtpgw.edge.road import Login, PeerCertificate, Tls
from smtpgw.policy.facts import Facts, State

_STATES = {each.value: each for each in State}


def facts(request: Mapping[str, str], listener: str) -> Facts:
    """What a request says (SMTPD_POLICY_README); what it leaves out is not known."""

    def said(name: str) -> bytes:
        return request.get(name, "").encode("utf-8", "surrogateescape")

    name = said("client_name") or UNKNOWN_NAME
    state = _STATES.get(request.get("protocol_state", ""), State.RCPT)
    later = state not in (State.CONNECT, State.EHLO, State.HELO)
    return Facts(
        client=_client(request, name),
        names=_names(name, said("reverse_client_name") or UNKNOWN_NAME),
        state=state,
        listener=listener,
        local_address=said("server_address"),
        local_port=_number(request, "server_port"),
        helo=said("helo_name") or None,
        esmtp=request.get("protocol_name") == "ESMTP",
        tls=_tls(request),
        login=_login(said("sasl_username"), request.get("sasl_method", "")),
        sender=said("sender") if later and "sender" in request else None,
        recipient=said("recipient") or None,
        recipients=_number(request, "recipient_count"),
        etrn=said("etrn_domain") or None,
        size=_number(request, "size"),
        stressed=bool(request.get("stress")),
        queue_id=request.get("queue_id", ""),
        instance=request.get("instance", ""),
        session=request.get("instance", ""),
    )


def _client(request: Mapping[str, str], name: bytes) -> Client:
    text = request.get("client_address", "")
    try:
        version = ipaddress.ip_address(text).version
    except ValueError:
        return Client(name=name)
    family = Family.INET if version == 4 else Family.INET6
    return Client(name, family, text.encode(), _number(request, "client_port"))


def _names(name: bytes, reverse: bytes) -> PeerName:
    """Why a name is not known, Postfix does not tell: it may be known later."""
    verified = NameStatus.OK if name != UNKNOWN_NAME else NameStatus.TEMP
    reversed_ = NameStatus.OK if reverse != UNKNOWN_NAME else NameStatus.TEMP
    return PeerName(name, reverse, verified, reversed_)


def _login(name: bytes, method: str) -> Login | None:
    return Login(name, method) if name else None


def _tls(request: Mapping[str, str]) -> Tls | None:
    version = request.get("encryption_protocol", "")
    if not version:
        return None
    fingerprint = request.get("ccert_fingerprint", "")
    certificate = None
    if fingerprint:
        subject, issuer = request.get("ccert_subject", ""), request.get("ccert_issuer", "")
        key = request.get("ccert_pubkey_fingerprint", "")
        certificate = PeerCertificate(subject, issuer, fingerprint, key, bool(subject or issuer))
    bits = _number(request, "encryption_keysize")
    cipher = request.get("encryption_cipher", "")
    return Tls(version, cipher, bits, certificate=certificate)


def _number(request: Mapping[str, str], name: str) -> int:
    text = request.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
