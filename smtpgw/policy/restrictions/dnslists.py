"""Lists in DNS of who is bad, and of who is good (RFC 5782): by address and by domain."""

from __future__ import annotations

from dataclasses import dataclass

from smtpgw.address.names import host_name
from smtpgw.dns.answers import Family, Found, IpAddress, TryAgain
from smtpgw.policy import dns, expand, pattern
from smtpgw.policy import text as words
from smtpgw.policy.facts import State
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import Argument, restriction
from smtpgw.policy.restrictions.relaying import authorized
from smtpgw.policy.run import Rule, Run
from smtpgw.tables.table import Unavailable

_TEXT_LIMIT = 500
"""Octets of what a list says about an entry."""


@dataclass(frozen=True, slots=True)
class Zone:
    """`domain` or `domain=d.d.d.d`: only answers that fit the pattern count."""

    domain: str
    pattern: pattern.Pattern | None = None


def zone(argument: str) -> Zone:
    """Raises ValueError saying what was expected."""
    domain, equals, rest = argument.partition("=")
    if not host_name(domain.encode()):
        raise ValueError("the domain of a list in DNS")
    return Zone(domain, pattern.parse(rest) if equals else None)


def _zone(rule: Rule) -> Zone:
    value = rule.value
    return value if isinstance(value, Zone) else zone(rule.argument)


async def _listed(run: Run, listed: Zone, query: str) -> tuple[IpAddress, ...] | TryAgain:
    """What a list says of a name of its own, nothing where that is not what is looked for."""
    name = query + listed.domain
    if len(name) > 253:
        return ()
    answer = await dns.question(
        run, "A", name, lambda dns, left: dns.address(name, Family.IPV4, left)
    )
    if isinstance(answer, TryAgain):
        return answer
    if not isinstance(answer, Found):
        return ()
    wanted = listed.pattern
    if wanted is not None and not any(wanted.fits(each.packed) for each in answer.records):
        return ()
    return answer.records


def _query(run: Run) -> str:
    """The client's address as lists have it; empty where it has none."""
    try:
        return dns.reversed_address(run.facts.address)
    except ValueError:
        return ""


def _domain_query(name: bytes) -> str:
    """A domain as lists have it; empty for what they are not asked for: numbers, literals."""
    domain = name.rpartition(b"@")[2]
    if not domain or domain.startswith(b"[") or domain.rpartition(b".")[2].isdigit():
        return ""
    text = domain.decode("utf-8", "replace")
    try:
        plain = text if text.isascii() else text.encode("idna").decode()
    except UnicodeError:
        return ""
    return f"{plain}." if host_name(plain.encode()) else ""


# -- who is bad ----------------------------------------------------------------------------


@restriction("reject_rbl_client", "reject_rbl", argument=Argument.DOMAIN, prepare=zone)
async def reject_rbl_client(run: Run, rule: Rule) -> Outcome:
    """No to a client whose address is in the list (maps_rbl_reject_code, default_rbl_reply)."""
    return await _reject(run, _zone(rule), _query(run), run.facts.address, words.CLIENT)


@restriction("reject_maps_rbl")
async def reject_maps_rbl(run: Run, _rule: Rule) -> Outcome:
    """The same for every list of maps_rbl_domains."""
    for each in run.options.maps_rbl_domains:
        outcome = await _reject(run, zone(each), _query(run), run.facts.address, words.CLIENT)
        if outcome is not Outcome.DUNNO:
            return outcome
    return Outcome.DUNNO


@restriction("reject_rhsbl_client", argument=Argument.DOMAIN, prepare=zone)
async def reject_rhsbl_client(run: Run, rule: Rule) -> Outcome:
    """No to a client whose name is in the list."""
    return await _reject_domain(run, rule, run.facts.names.name, words.CLIENT, unknown=False)


@restriction("reject_rhsbl_reverse_client", argument=Argument.DOMAIN, prepare=zone)
async def reject_rhsbl_reverse_client(run: Run, rule: Rule) -> Outcome:
    """The same for the name that nobody has confirmed."""
    reverse = run.facts.names.reverse
    return await _reject_domain(run, rule, reverse, words.REVERSE_CLIENT, unknown=False)


@restriction("reject_rhsbl_helo", argument=Argument.DOMAIN, prepare=zone)
async def reject_rhsbl_helo(run: Run, rule: Rule) -> Outcome:
    """No to a HELO that is in the list."""
    return await _reject_domain(run, rule, run.facts.helo, words.HELO)


@restriction("reject_rhsbl_sender", argument=Argument.DOMAIN, prepare=zone)
async def reject_rhsbl_sender(run: Run, rule: Rule) -> Outcome:
    """No to a sender whose domain is in the list."""
    return await _reject_domain(run, rule, run.facts.sender, words.SENDER)


@restriction("reject_rhsbl_recipient", argument=Argument.DOMAIN, prepare=zone)
async def reject_rhsbl_recipient(run: Run, rule: Rule) -> Outcome:
    """No to a recipient whose domain is in the list."""
    return await _reject_domain(run, rule, run.facts.recipient, words.RECIPIENT)


async def _reject_domain(
    run: Run, rule: Rule, name: bytes | None, what: str, *, unknown: bool = True
) -> Outcome:
    if not name or (not unknown and name.lower() == b"unknown"):
        return Outcome.DUNNO
    return await _reject(run, _zone(rule), _domain_query(name), words.shown(name), what)


async def _reject(run: Run, listed: Zone, query: str, name: str, what: str) -> Outcome:
    if not query:
        return Outcome.DUNNO
    found = await _listed(run, listed, query)
    # Mail is not lost because a list cannot be asked.
    if isinstance(found, TryAgain) or not found:
        return Outcome.DUNNO
    reason = await _reason(run, query + listed.domain)
    return await _reply(run, listed, name, what, reason)


async def _reason(run: Run, name: str) -> str:
    """What the list says about the entry."""
    answer = await dns.question(run, "TXT", name, lambda dns, left: dns.txt(name, left))
    if not isinstance(answer, Found):
        return ""
    joined = b" / ".join(answer.records)
    return words.shown(joined[:_TEXT_LIMIT])


async def _reply(run: Run, listed: Zone, name: str, what: str, reason: str) -> Outcome:
    """rbl_reply_maps, then default_rbl_reply."""
    options = run.options
    session = expand.of_facts(run.facts, options.myhostname, run.ports.wall)
    own = {
        "rbl_code": str(options.maps_rbl_reject_code), "rbl_domain": listed.domain,
        "rbl_reason": reason, "rbl_txt": reason, "rbl_what": name, "rbl_class": what,
    }  # fmt: skip

    def value(each: str) -> str | None:
        return own[each] if each in own else session(each)

    text = ""
    template = await _template(run, listed)
    for each in (template, options.default_rbl_reply) if template else (options.default_rbl_reply,):
        try:
            text = expand.expand(each, value, options.smtpd_expansion_filter)
        except expand.TemplateError as error:
            run.asked("rbl_reply_maps", each, str(error))
            continue
        break
    code, _, rest = text.partition(" ")
    if len(code) != 3 or not code.isdigit() or code[0] not in "45" or " " not in text:
        return run.reject(450, "4.7.1", "Service unavailable")
    status, said = words.split_status("4.7.1", rest)
    return run.reject(int(code), words.fitting(status, what), said or "Service unavailable")


async def _template(run: Run, listed: Zone) -> str:
    maps = run.site.rbl_reply_maps
    if maps is None:
        return ""
    try:
        found = await maps.find(listed.domain.encode())
    except Unavailable as error:
        raise run.misconfigured(str(error)) from error
    return "" if found is None else found.value.decode("utf-8", "replace")


# -- who is good ----------------------------------------------------------------------------


@restriction("permit_dnswl_client", argument=Argument.DOMAIN, prepare=zone)
async def permit_dnswl_client(run: Run, rule: Rule) -> Outcome:
    """Yes to a client whose address is in the list, for recipients of ours."""
    return await _permit(run, _zone(rule), _query(run), run.facts.address)


@restriction("permit_rhswl_client", argument=Argument.DOMAIN, prepare=zone)
async def permit_rhswl_client(run: Run, rule: Rule) -> Outcome:
    """Yes to a client whose name is in the list, for recipients of ours."""
    name = run.facts.names.name
    if name.lower() == b"unknown":
        return Outcome.DUNNO
    return await _permit(run, _zone(rule), _domain_query(name), words.shown(name))


async def _permit(run: Run, listed: Zone, query: str, name: str) -> Outcome:
    facts = run.facts
    # What others write into DNS does not open the relay.
    looks = facts.state is State.RCPT and facts.recipient is not None
    if looks and not authorized(run, await run.resolve(facts.recipient or b"", facts.sender)):
        return Outcome.DUNNO
    if not query:
        return Outcome.DUNNO
    found = await _listed(run, listed, query)
    if isinstance(found, TryAgain):
        text = f"<{name}>: {words.CLIENT} rejected: Service unavailable"
        return run.defer_if_reject(450, "4.7.1", text)
    return Outcome.PERMIT if found else Outcome.DUNNO
