"""What becomes of a mail that a filter did not judge: by what went wrong, by whose mail it is, and
on both hosts; and the table that says so beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milterd.config_clamav import OutcomeActions
from milterd.config_filter import FaultActions
from milterd.core.actions import AddHeader, Edit, Quarantine
from milterd.wire import messages as m
from milterd.wire.constants import Actions
from tests.host.conftest import Hosting
from tests.host.mta import Answer, Mta

OWN = ((b"{auth_authen}", b"u"),)
RAISES = [(b"X-Case", b" raise")]


def _marked(word: bytes) -> AddHeader:
    return AddHeader(b"X-Not-Judged", b" script: " + word)


def _held(word: bytes) -> tuple[Edit, ...]:
    return (_marked(word), Quarantine(b"not judged by script: " + word))


REPLIES = {
    "error": (b"554 5.3.0 Internal error, trace id ", b"451 4.3.0 Internal error, trace id "),
    "too large": (
        b"552 5.3.4 Message too large for content filter",
        b"452 4.3.4 Message too large for content filter",
    ),
}


def check(answer: Answer, action: str, word: str) -> None:
    """The answer is what that action means."""
    octets = word.encode()
    if action in ("reject", "tempfail"):
        assert isinstance(answer.reply, m.ReplyCode)
        assert answer.reply.text.startswith(REPLIES[word][action == "tempfail"])
        assert answer.edits == ()
        return
    assert isinstance(answer.reply, m.Continue | m.Accept)
    edits = {"tag": (_marked(octets),), "quarantine": _held(octets), "accept": ()}
    assert answer.edits == edits[action]


@pytest.mark.parametrize(
    ("inbound", "originating"),
    [("quarantine", "reject"), ("tag", "accept"), ("accept", "quarantine"), ("reject", "tag")],
)
def test_each_fault_has_its_action_for_mail_of_each_direction(
    inbound: str, originating: str, hosting: Hosting
) -> None:
    faults = {
        "error/inbound": inbound, "error/originating": originating,
        "too_large/inbound": originating, "too_large/originating": inbound,
    }  # fmt: skip
    host = hosting("script", size_limit=5000, faults=faults)
    large = [b"x" * 3000] * 2
    with host.mta() as mta:
        mta.greet()
        check(mta.message(RAISES), inbound, "error")
        check(mta.message(body=large), originating, "too large")
        check(mta.message(RAISES, macros=OWN), originating, "error")
        check(mta.message(body=large, macros=OWN), inbound, "too large")


def test_a_mail_is_held_until_the_filter_can_judge_it(hosting: Hosting) -> None:
    host = hosting("script", faults={"error/inbound": "hold"})
    with host.mta() as mta:
        mta.greet()
        marked, held = mta.message(RAISES).edits
        assert marked == _marked(b"error")
        assert isinstance(held, Quarantine)
        assert held.reason == b"script/?not-judged: error; held until it is judged"


def test_what_stays_too_large_is_not_held_for_later() -> None:
    with pytest.raises(ValueError, match="what is too large stays so"):
        FaultActions.model_validate({"too_large": "hold"})
    with pytest.raises(ValueError, match="can be waited for"):
        OutcomeActions.model_validate({"infected": "hold"})


def test_what_the_mta_does_not_allow_is_put_off(hosting: Hosting) -> None:
    host = hosting("script", faults={"error/inbound": "quarantine"})
    with Mta(host.address, actions=Actions.ALL & ~Actions.QUARANTINE) as mta:
        mta.greet()
        check(mta.message(RAISES), "tempfail", "error")


def test_the_settings_and_the_table_that_shows_them(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_text(f"""
[milterd]
socket_directory = "{tmp_path}"
socket_group = ""
oversize = "tempfail"
[filter.clamav]
encrypted = "tag"
[filter.clamav.failures]
error = "quarantine"
[filter.dkim]
verify = true
on_dns_error = "tempfail"
[filter.dkim.failures]
too_large = "accept"
[filter.dkim.failures.originating]
error = "reject"
[filter.headers]
on_timeout = "tempfail"
""")
    command = [sys.executable, "-m", "milterd", "check", "--offline", "--json"]
    done = subprocess.run([*command, "--config", str(file)], capture_output=True, check=False)
    rows = json.loads(done.stdout)["matrix"]
    found = {
        (each["filter"], each["mail that is"]): (each["inbound"], each["originating"])
        for each in rows
    }
    assert found["clamav", "encrypted"] == ("tag (unseen)",) * 2
    assert found["clamav", "not judged: an error"] == ("quarantine",) * 2
    assert found["clamav", "not judged: too large"] == ("tempfail",) * 2
    assert found["dkim", "no key or table"] == ("", "tempfail")
    assert found["dkim", "no answer from DNS"] == ("tempfail", "")
    assert found["dkim", "not judged: an error"] == ("tempfail", "reject")
    assert found["dkim", "not judged: too large"] == ("accept (unseen)",) * 2
    assert found["headers", "too slow"] == ("tempfail",) * 2
