"""The entries of the LDAP tests: people, a group of DNs and LDAP URLs, a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.peers.slapd import BASE

PEOPLE = f"ou=people,{BASE}"


def _entry(dn: str, classes: Sequence[str], **attributes: str | Sequence[str]) -> str:
    lines = [f"dn: {dn}", *(f"objectClass: {each}" for each in classes)]
    for name, values in attributes.items():
        for value in [values] if isinstance(values, str) else values:
            lines.append(f"{name}: {value}")
    return "\n".join(lines) + "\n"


def _person(name: str, parent: str = PEOPLE, **attributes: str | Sequence[str]) -> str:
    classes = ("inetOrgPerson", "mailEntry")
    return _entry(f"cn={name},{parent}", classes, cn=name, sn="x", **attributes)


_ATTRIBUTES: Mapping[str, Mapping[str, str | Sequence[str]]] = {
    "user": {"mail": "user@example.net", "maildrop": "box@example.org"},
    "many": {
        "mail": ["many@example.net", "more@example.net"],
        "maildrop": ["a@example.org", "@nobody.example", "unqualified"],
    },
    "o'brien": {"mail": "o'brien@example.net", "maildrop": "o'brien@example.org"},
    "star": {"mail": "*(\\)@example.net", "maildrop": "star@example.org"},
    "5": {"mail": "5@example.net", "maildrop": "five@example.org"},
}

LDIF = "\n".join(
    [
        _entry(BASE, ("dcObject", "organization"), o="x", dc="example"),
        _entry(PEOPLE, ("organizationalUnit",), ou="people"),
        *(_person(name, **attributes) for name, attributes in _ATTRIBUTES.items()),
        _person(
            "group",
            BASE,
            mail="group@example.net",
            maildrop="owner@example.org",
            memberdn=[
                f"cn=user,{PEOPLE}",
                f"cn=nobody,{PEOPLE}",
                f"ldap:///{PEOPLE}?maildrop?one?(cn=many)",
                f"ldap:///{PEOPLE}?description?one?(cn=many)",
            ],
        ),
        _person("circle", BASE, mail="circle@example.net", memberdn=f"cn=circle,{BASE}"),
    ]
)
