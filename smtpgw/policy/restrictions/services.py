"""Who is asked about a mail: policy services, and greylisting and throttles, which Postfix has
not."""

from __future__ import annotations

from smtpgw.policy import access
from smtpgw.policy import text as words
from smtpgw.policy.access import Subject
from smtpgw.policy.attributes import attributes
from smtpgw.policy.ports import ServiceDown
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import Argument, restriction
from smtpgw.policy.run import Rule, Run
from smtpgw.tables import spec

_LAST_RESORT = "451 4.3.5 Server configuration problem"


def default_action(argument: str) -> str:
    """What `{ service, default_action = ... }` says; empty if it does not."""
    if not argument.startswith("{"):
        return ""
    for each in spec.split(spec.inside(argument)):
        inside = spec.inside(each) if each.startswith("{") else each
        name, _, value = inside.partition("=")
        if name.strip() == "default_action":
            return value.strip()
    return ""


@restriction("check_policy_service", argument=Argument.SERVICE, prepare=default_action)
async def check_policy_service(run: Run, rule: Rule) -> Outcome:
    """What the service says (access(5)), or smtpd_policy_service_default_action."""
    scope = run.scope
    service = run.ports.policy_service
    if service is None:
        raise run.misconfigured("no policy services here")
    began = run.ports.clock()
    run.within_policy += 1
    try:
        try:
            action = await service.ask(rule.argument, attributes(run.facts))
            run.asked(rule.argument, "policy query", action, took=run.ports.clock() - began)
        except ServiceDown as error:
            run.asked(rule.argument, "policy query", f"({error})", took=run.ports.clock() - began)
            action = str(rule.value or run.options.smtpd_policy_service_default_action)
            if run.within_policy > 1:  # a default that leads back here
                action = _LAST_RESORT
        return await access.result(run, Subject(scope.name, scope.what), action)
    finally:
        run.within_policy -= 1


@restriction("check_greylist")
async def check_greylist(run: Run, _rule: Rule) -> Outcome:
    """Not yet, to a client network, sender and recipient that are new together."""
    port = run.ports.greylist
    if port is None:
        raise run.misconfigured("no greylisting here")
    return await _own(run, "greylist", await port.check(run.facts))


@restriction("check_throttle", argument=Argument.WORD)
async def check_throttle(run: Run, rule: Rule) -> Outcome:
    """Not now, to who has had enough."""
    port = run.ports.throttle
    if port is None:
        raise run.misconfigured("no throttles here")
    try:
        action = await port.check(rule.argument, run.facts)
    except ServiceDown as error:  # there is none of that name
        raise run.misconfigured(str(error)) from error
    return await _own(run, f"throttle {rule.argument}", action)


async def _own(run: Run, asked: str, action: str) -> Outcome:
    scope = run.scope
    run.asked(asked, words.shown(scope.name), action)
    return await access.result(run, Subject(scope.name, scope.what), action)
