"""What a policy service is told of a session: SMTPD_POLICY_README's attributes, in its order.

The names and the meaning are those of Postfix 3.7; what is not known is empty.  `policy_context`
is left to whoever asks.
"""

from __future__ import annotations

from smtpgw.policy.facts import Facts, State

REQUEST = "smtpd_access_policy"
_ALL_THERE = (State.DATA, State.END_OF_MESSAGE)


def attributes(facts: Facts) -> dict[str, str]:
    """All of them."""
    names, client = facts.names, facts.client
    return {
        "request": REQUEST,
        "protocol_state": facts.state.value,
        "protocol_name": facts.protocol,
        "client_address": facts.address,
        "client_name": _text(names.name),
        "client_port": str(client.port) if client.port else "unknown",
        "reverse_client_name": _text(names.reverse),
        "server_address": _text(facts.local_address),
        "server_port": str(facts.local_port) if facts.local_port else "",
        "helo_name": _text(facts.helo),
        "sender": _text(facts.sender),
        "recipient": _recipient(facts),
        "recipient_count": str(facts.recipients if facts.state in _ALL_THERE else 0),
        "queue_id": facts.queue_id,
        "instance": facts.instance,
        "size": str(facts.size),
        "etrn_domain": _text(facts.etrn),
        "stress": "yes" if facts.stressed else "",
        **_login(facts),
        **_certificate(facts),
        **_encryption(facts),
        "policy_context": "",
    }


def _recipient(facts: Facts) -> str:
    """Once all are there, it is only told if there is but one."""
    if facts.state in _ALL_THERE and facts.recipients > 1:
        return ""
    return _text(facts.recipient)


def _login(facts: Facts) -> dict[str, str]:
    login = facts.login
    return {
        "sasl_method": login.method if login else "",
        "sasl_username": _text(login.name) if login else "",
        "sasl_sender": "",
    }


def _certificate(facts: Facts) -> dict[str, str]:
    """Names only if a CA that we trust vouches for them; fingerprints in any case."""
    found = facts.tls.certificate if facts.tls else None
    vouched = found if found is not None and found.trusted else None
    return {
        "ccert_subject": _xtext(vouched.subject) if vouched else "",
        "ccert_issuer": _xtext(vouched.issuer) if vouched else "",
        "ccert_fingerprint": found.fingerprint if found else "",
        "ccert_pubkey_fingerprint": found.public_key_fingerprint if found else "",
    }


def _encryption(facts: Facts) -> dict[str, str]:
    tls = facts.tls
    return {
        "encryption_protocol": tls.version if tls else "",
        "encryption_cipher": tls.cipher if tls else "",
        "encryption_keysize": str(tls.bits if tls else 0),
    }


def _xtext(text: str) -> str:
    """RFC 3461 section 4: what anybody may have written into a certificate."""
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(
        chr(each) if 33 <= each <= 126 and each not in b"+=" else f"+{each:02X}" for each in octets
    )


def _text(octets: bytes | None) -> str:
    return (octets or b"").decode("utf-8", "surrogateescape")
