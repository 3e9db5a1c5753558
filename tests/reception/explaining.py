"""`smtpgw explain` for many cases at once: settings file as argument, JSON in, JSON out.

Run inside the network namespace, where the names are.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from smtpgw import config
from smtpgw.explain import Asked
from smtpgw.explain_show import choose, explaining


async def _all(file: Path, cases: list[list[str]]) -> list[list[tuple[int, str, str]]]:
    settings = config.load(file).smtpgw
    found = []
    async with explaining(settings) as explainer:
        for listener, client, helo, sender, *recipients in cases:
            asked = Asked(client, helo, sender, tuple(recipients))
            said = await explainer(choose(settings, listener)).explain(asked)
            found.append([(each.code, each.enhanced, each.rule) for each in said.heard])
    return found


if __name__ == "__main__":
    answers = asyncio.run(_all(Path(sys.argv[1]), json.load(sys.stdin)))
    json.dump(answers, sys.stdout)
