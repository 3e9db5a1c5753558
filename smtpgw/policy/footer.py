"""smtpd_reject_footer: what a client is told behind a refusal (smtpd_reply_footer(3))."""

from __future__ import annotations

from dataclasses import replace

from smtpgw.edge.road import Answer
from smtpgw.policy import expand
from smtpgw.policy import text as words
from smtpgw.policy.engine import Policy
from smtpgw.policy.facts import Facts
from smtpgw.policy.ports import Ports
from smtpgw.tables.table import Unavailable

_SAME_LINE = "\\c"


async def footed(policy: Policy, ports: Ports, facts: Facts, answer: Answer) -> Answer:
    """The refusal with its footer, if there is one.  One that cannot be found or read is left
    out: the refusal counts."""
    template = await _template(policy, answer)
    if not template:
        return answer
    options = policy.options
    value = expand.of_facts(facts, options.myhostname, ports.wall)
    try:
        footer = expand.expand(template, value, options.smtpd_expansion_filter)
    except expand.TemplateError:
        return answer
    lines = [words.printable(each) for each in footer.replace("\\n", "\n").split("\n")]
    text = answer.text
    if lines[0].startswith(_SAME_LINE):
        text += lines.pop(0).removeprefix(_SAME_LINE)
    return replace(answer, text="\n".join((text, *lines)))


async def _template(policy: Policy, answer: Answer) -> str:
    maps = policy.site.smtpd_reject_footer_maps
    if maps is not None:
        try:
            found = await maps.find(f"{answer.code} {answer.enhanced} {answer.text}".encode())
        except Unavailable:
            found = None
        if found is not None:
            return found.value.decode("utf-8", "replace")
    return policy.options.smtpd_reject_footer
