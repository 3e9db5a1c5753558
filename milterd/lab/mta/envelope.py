"""Edits of the envelope, quarantine, and edits together with an answer."""

from __future__ import annotations

from collections.abc import Sequence

from milterd.lab.conform.check import Check
from milterd.lab.mta.check import Trial, require, sound
from milterd.lab.mta.edits import (
    TRACE,
    Arrived,
    compare_fields,
    edited,
    edited_once,
    taken_apart,
)
from milterd.lab.server import Plan, Step
from milterd.lab.sink import Address
from milterd.wire import messages as m


async def _add_recipient(trial: Trial) -> str:
    new = trial.address(b"new")
    found = await edited(trial, [m.AddRcptReply(b"<%b>" % new)], recipients=2)
    recipients = _recipients(found)
    require(recipients == {trial.address(b"to"), new}, f"{len(recipients)} recipients")
    compare_fields(found[0].fields, [TRACE, *trial.fields])
    return "both get it, unchanged"


async def _add_recipient_args(trial: Trial) -> str:
    new = trial.address(b"new")
    edit = m.AddRcptParReply(b"<%b>" % new, b"NOTIFY=NEVER")
    found = await edited(trial, [edit], recipients=2)
    added = [each for one in found for each in one.mail.recipients if each.address == new]
    require(len(added) == 1, f"delivered {len(added)} times to the new one")
    require(_arg(added[0], b"NOTIFY") == b"NEVER", f"arguments {added[0].args!r}")
    return "delivered with NOTIFY=NEVER"


async def _delete_recipient(trial: Trial) -> str:
    kept, gone = trial.address(b"kept"), trial.address(b"gone")
    plan = Plan({m.EndOfMessage: [m.DelRcptReply(b"<%b>" % gone), m.Continue()]})
    async with trial.session(plan) as session:
        told = await session.send(recipients=[gone, kept])
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    found = _recipients([taken_apart(trial, each) for each in await trial.delivered()])
    require(found == {kept}, "the deleted recipient got it")
    return "the other one alone gets it"


async def _delete_all(trial: Trial) -> str:
    edit = m.DelRcptReply(b"<%b>" % trial.address(b"to"))
    told, heard = await trial.send(Plan({m.EndOfMessage: [edit, m.Continue()]}))
    sound(heard)
    require(told.taken, str(told))
    await trial.nothing()
    return f"{told}, nothing delivered"


async def _sender(trial: Trial) -> str:
    new = trial.address(b"new")
    found = await edited_once(trial, [m.ChangeFromReply(b"<%b>" % new)])
    require(found.mail.sender.address == new, "not from the new sender")
    return "from the new sender"


async def _null_sender(trial: Trial) -> str:
    found = await edited_once(trial, [m.ChangeFromReply(b"<>")])
    require(found.mail.sender.address == b"", "not from the null sender")
    return "from <>"


async def _sender_args(trial: Trial) -> str:
    new = trial.address(b"new")
    found = await edited_once(trial, [m.ChangeFromReply(b"<%b>" % new, b"ENVID=lab RET=HDRS")])
    sender = found.mail.sender
    require(sender.address == new, "not from the new sender")
    right = _arg(sender, b"ENVID") == b"lab" and _arg(sender, b"RET") == b"HDRS"
    require(right, f"arguments {sender.args!r}")
    return "from the new sender, with ENVID and RET"


async def _all_kinds(trial: Trial) -> str:
    new = trial.address(b"new")
    steps: list[Step] = [
        m.ReplaceBodyChunk(b"new body\r\n"),
        m.AddHeaderReply(b"X-New", b"value"),
        m.ChangeHeaderReply(1, b"Subject", b"changed"),
        m.InsertHeaderReply(0, b"X-Top", b"top"),
        m.ChangeFromReply(b"<%b>" % new),
        m.AddRcptReply(b"<%b>" % new),
    ]
    found = await edited(trial, steps, recipients=2)
    wanted = [b"Subject: changed" if each.startswith(b"Subject") else each for each in trial.fields]
    compare_fields(found[0].fields, [b"X-Top: top", TRACE, *wanted, b"X-New: value"])
    require(found[0].body == b"new body\r\n", "not the new body")
    require(found[0].mail.sender.address == new and len(_recipients(found)) == 2, "the envelope")
    return "all of them"


async def _quarantine(trial: Trial) -> str:
    steps: list[Step] = [m.QuarantineReply(b"the lab says so"), m.Continue()]
    told, heard = await trial.send(Plan({m.EndOfMessage: steps}))
    sound(heard)
    require(told.taken, str(told))
    await trial.nothing()
    return f"{told}, nothing delivered"


async def _refused_after(trial: Trial) -> str:
    steps: list[Step] = [m.AddHeaderReply(b"X-New", b"value"), m.Reject()]
    told, heard = await trial.send(Plan({m.EndOfMessage: steps}))
    sound(heard)
    require(told.last.kind == 5, str(told))
    await trial.nothing()
    return f"{told}, nothing delivered"


async def _accepted_after(trial: Trial) -> str:
    steps: list[Step] = [m.AddHeaderReply(b"X-New", b"value"), m.Accept()]
    told, heard = await trial.send(Plan({m.EndOfMessage: steps}))
    sound(heard)
    require(told.taken, str(told))
    mail = await trial.delivered_once()
    compare_fields(taken_apart(trial, mail).fields, [TRACE, *trial.fields, b"X-New: value"])
    return "the edit is made"


def _recipients(found: Sequence[Arrived]) -> set[bytes]:
    return {each.address for one in found for each in one.mail.recipients}


def _arg(address: Address, name: bytes) -> bytes:
    pairs = (each.partition(b"=") for each in address.args)
    return next((value for key, _, value in pairs if key.upper() == name), b"")


CHECKS = (
    Check(
        "edit/add-recipient",
        "Add a recipient",
        "The mail is delivered to that one too.",
        "libmilter, smfi_addrcpt",
        _add_recipient,
    ),
    Check(
        "edit/add-recipient-args",
        "Add a recipient with NOTIFY",
        "The argument goes with it, where the next hop knows DSN.",
        "libmilter, smfi_addrcpt_par; Postfix MILTER_README",
        _add_recipient_args,
    ),
    Check(
        "edit/delete-recipient",
        "Delete one of two recipients",
        "The mail is not delivered to that one.",
        "libmilter, smfi_delrcpt",
        _delete_recipient,
    ),
    Check(
        "edit/delete-all-recipients",
        "Delete the only recipient",
        "The client is told yes, and nothing is delivered.",
        "libmilter, smfi_delrcpt",
        _delete_all,
    ),
    Check(
        "edit/sender",
        "Change the sender",
        "The mail leaves from the new one.",
        "libmilter, smfi_chgfrom",
        _sender,
    ),
    Check(
        "edit/null-sender",
        "Change the sender to <>",
        "The mail leaves from the null sender.",
        "libmilter, smfi_chgfrom",
        _null_sender,
    ),
    Check(
        "edit/sender-args",
        "Change the sender, with ENVID and RET",
        "The arguments go with it, where the next hop knows DSN.",
        "libmilter, smfi_chgfrom; Postfix MILTER_README",
        _sender_args,
    ),
    Check(
        "edit/all-kinds",
        "Six kinds of edits together",
        "Each of them is made.",
        "libmilter, xxfi_eom",
        _all_kinds,
    ),
    Check(
        "edit/quarantine",
        "Quarantine",
        "The client is told yes, and the mail is held.",
        "libmilter, smfi_quarantine",
        _quarantine,
    ),
    Check(
        "edit/then-reject",
        "An edit, then Reject",
        "The mail is refused; the edit means nothing.",
        "libmilter, xxfi_eom",
        _refused_after,
    ),
    Check(
        "edit/then-accept",
        "An edit, then Accept",
        "The edit is made: Accept is no refusal of it.",
        "libmilter, xxfi_eom",
        _accepted_after,
    ),
)
