"""What most checks ask at the end: that a mail passed, was refused, or was put off."""

from __future__ import annotations

from milterd.lab.mta.check import Trial, require, sound
from milterd.lab.mta.smtp import Told
from milterd.lab.server import Heard, Plan


async def passed(trial: Trial, plan: Plan | None = None) -> Heard:
    """The ordinary mail is taken, and the MTA breaks no rule of the protocol."""
    told, heard = await trial.send(plan)
    sound(heard)
    require(told.taken, str(told))
    return heard


async def deferred(trial: Trial, plan: Plan, *, shown: bool = True) -> str:
    """The ordinary mail is refused for now, and not delivered: the milter has failed.

    With `shown` False the milter is to have heard nothing but the offer.
    """
    told, heard = await trial.send(plan)
    put_off(told)
    if not shown:
        more = [each for each in heard.kinds() if each != "Negotiate"]
        require(not more, f"the milter was told {', '.join(more[:3])} all the same")
    await trial.nothing(needed=False)
    return str(told)


def put_off(told: Told) -> None:
    """Fail unless the client was told to try again later."""
    require(told.last.kind == 4, f"not refused for now: {told}")
