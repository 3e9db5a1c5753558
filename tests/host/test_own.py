"""Filters of a postmaster's own: what is refused when they are loaded, what becomes of their
faults, and filters in shadow."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milterd.check import examine
from milterd.core.mail import parse_message
from milterd.filters.own import OwnFilter, OwnOptions
from milterd.filters.setup import SetupError
from milterd.host import negotiation
from milterd.wire import messages as m
from milterd.wire.constants import Actions
from tests.host import scripted
from tests.host.conftest import until
from tests.host.own_cases import CASES, READER, configure, put
from tests.host.test_daemon import Milterd
from tests.host.test_edits import case

GOOD = """
from dataclasses import dataclass
from milterd.core import Decision, Need
needs = Need.HEADERS
@dataclass
class Settings:
    limit: int
    words: tuple[str, ...] = ()
def gather(mail, settings): return None
def decide(mail, facts, settings): return Decision()
"""

BROKEN = {
    "def decide(mail, facts, settings)": (
        "def decyde(mail, facts, settings)", "decide: found nothing, expected a function: "
        "def decide(mail, facts, settings); did you mean 'decyde'?"),
    "needs = Need.HEADERS": ('needs = "headers"', "needs: found str, expected"),
    "def gather(mail, settings)": (
        "def gather(mail)", "gather(mail), line 9: too many positional arguments; expected "
        "def gather(mail, settings)"),
    "def gather": ("async def gather", "line 9: found an async function"),
    "@dataclass\n": ("", "Settings: found type, expected a dataclass"),
    "import dataclass": ("import dataklass", "{file}:2: found ImportError: "),
    "needs =": ("needs ==", "{file}:4: found NameError: "),
    "limit: int": ("limit: int = = 3", "{file}:7: found "),
    "Need.HEADERS": ("__import__('sys').exit(1)", "{file}:4: found SystemExit: 1"),
}  # fmt: skip


def problems(path: Path | str, **settings: Any) -> str:
    with pytest.raises(SetupError) as raised:
        OwnFilter(OwnOptions("mine", str(path), settings))
    return "\n".join(raised.value.problems)


@pytest.mark.parametrize("there", BROKEN)
def test_a_file_that_cannot_be_a_filter_is_refused_with_place_and_cure(
    there: str, tmp_path: Path
) -> None:
    instead, said = BROKEN[there]
    assert there in GOOD
    path = put(tmp_path / "mine.py", GOOD.replace(there, instead, 1))
    assert said.format(file=path) in problems(path, limit=1)
    assert str(path) in problems(path, limit=1)


def test_settings_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    path = put(tmp_path / "mine.py", GOOD)
    said = problems(path, limt=3, words=["a", 2])
    assert "settings.limt: found an unknown key" in said
    assert "did you mean 'limit'?" in said
    assert "settings.limit: found nothing" in said
    assert "settings.words.1: found 2, expected a valid string" in said
    assert "none: the file has no class Settings" in problems(put(path, READER), limit=1)
    built = OwnFilter(OwnOptions("mine", str(put(path, GOOD)), {"limit": 3, "words": ["a"]}))
    assert (built.settings[0].limit, built.settings[0].words) == (3, ("a",))


def test_a_file_that_others_could_change_is_not_run(tmp_path: Path) -> None:
    path = put(tmp_path / "mine.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n{GOOD}")
    for mode in (0o664, 0o646):
        path.chmod(mode)
        assert f"found mode {mode:04o}" in problems(path)
        assert f"chmod go-w {path}" in problems(path)
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    assert f"chmod go-w {tmp_path}" in problems(path)
    link = tmp_path.parent / "link.py"
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    assert f"chmod go-w {tmp_path}" in problems(link)
    tmp_path.chmod(0o755)
    if not os.geteuid():
        os.chown(path, 65534, 65534)
        assert f"found the owner 65534, expected root or milterd's user 0: chown root {path}" in (
            problems(path)
        )
    assert not (tmp_path / "ran").exists()
    assert "expected a path from the root" in problems("mine.py")
    assert "No such file" in problems(tmp_path / "none.py")
    assert "can import" in problems("no_such_package.mine")


def test_a_module_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "installed_filter.py", GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    built = OwnFilter(OwnOptions("mine", "installed_filter", {"limit": 1}))
    mail = parse_message(b"Subject: x\r\n\r\n")
    assert not built.decide(mail, built.gather(mail)).edits
    (tmp_path / "installed_filter.py").chmod(0o666)
    assert "chmod go-w" in problems("installed_filter", limit=1)


@pytest.mark.parametrize(
    "answer",
    ["None", '"reject"', 'Decision("reject")', 'Decision(reply="550 no")',
     "Decision(edits=(b'X',))", 'Decision(edits=(AddHeader("X", b"y"),))',
     "Decision(edits=(ReplaceBody(b'x'),))", "Decision(reasons=('why',))"],
)  # fmt: skip
def test_an_answer_that_is_no_decision_is_a_fault_of_the_filter(
    answer: str, tmp_path: Path
) -> None:
    text = GOOD.replace("Decision()", answer).replace(
        "import Decision,", "import AddHeader, Decision, ReplaceBody,"
    )
    built = OwnFilter(OwnOptions("mine", str(put(tmp_path / "m.py", text)), {"limit": 1}))
    with pytest.raises(TypeError, match="decide returned"):
        built.decide(parse_message(b"\r\n"), None)


def test_check_names_a_filter_in_shadow_and_says_what_its_file_says(short_path: Path) -> None:
    put(short_path / "trap.py", GOOD + "def check(settings): return ['a table is old']\n")
    config = short_path / "g.toml"
    config.write_text(
        f'[filter.own.trap]\nmodule = "{short_path}/trap.py"\nmode = "shadow"\n'
        "[filter.own.trap.settings]\nlimit = 1\n[filter.headers]\n"
    )
    found = {(each.level, each.filter): each.problem for each in examine(config)}
    assert found.keys() == {("note", "trap"), ("warning", "trap")}
    assert found["warning", "trap"] == "a table is old"
    config.write_text(f'[filter.own.dkim]\nmodule = "{short_path}/trap.py"\n')
    (wrong,) = examine(config)
    assert "filter.own.dkim: found 'dkim', expected a name that no filter of ours has" in (
        wrong.problem
    )


# --- hosted -------------------------------------------------------------------------------

HOSTS = ("native", "libmilter")


@pytest.fixture(scope="module")
def milterd() -> Iterator[Milterd]:
    """Each host with the scripted filter in force, in shadow, and with the other policies."""
    home = Path(tempfile.mkdtemp(dir="/tmp", prefix="gpo-"))
    put(home / "cases.py", CASES)
    put(home / "reader.py", READER)
    made = Milterd(home, "native")
    tables = ""
    for host in HOSTS:
        for name, keys in (("on", ""), ("shadow", 'mode = "shadow"')):
            tables += f'[filter.own.{name}-{host}]\nhost = "{host}"\nmodule = "{home}/cases.py"\n'
            tables += f"{keys}\n"
    for policy in ("accept", "reject"):
        tables += f'[filter.own.{policy}]\non_failure = "{policy}"\nmodule = "{home}/cases.py"\n'
        tables += "timeout = 3\n" if policy == "reject" else ""
    tables += f'[filter.own.reader]\nmodule = "{home}/reader.py"\n'
    configure(made, tables)
    made.start()
    until(lambda: made.running() and len(made.log("serving")) == 7, 90)  # that many processes
    yield made
    made.close()
    shutil.rmtree(home)


def ask(milterd: Milterd, name: str, *cases: str) -> list[Any]:
    """What a filter answers to mails, on one connection."""
    milterd.path = str(milterd.directory / f"{name}.sock")
    with milterd.mta() as mta:
        return [mta.message(case(each)) for each in cases]


def lines(milterd: Milterd, event: str, name: str) -> list[dict[str, Any]]:
    return [each for each in milterd.log(event) if each["filter"] == name]


@pytest.mark.parametrize("host", HOSTS)
def test_in_shadow_the_decisions_are_the_same_and_the_mail_is_let_alone(
    milterd: Milterd, host: str
) -> None:
    cases = [*scripted.CASES, "raise", "raise-gather", "none", "text", "exit"]
    real = ask(milterd, f"on-{host}", *cases)
    assert {type(each.reply) for each in real} > {m.Accept, m.ReplyCode, m.Discard}
    for answer in ask(milterd, f"shadow-{host}", *cases):
        assert answer.edits == ()
        assert answer.reply == m.Continue()

    def told(name: str) -> list[dict[str, Any]]:
        return until(lambda: len(found := lines(milterd, "decision", name)) == len(cases) and found)

    def said(line: dict[str, Any]) -> dict[str, Any]:
        reason = line["reason"].partition("trace=")[0]
        return {**{key: line[key] for key in ("client", "queue_id", "outcome")}, "reason": reason}

    assert all(each["shadow"] is True for each in told(f"shadow-{host}"))
    assert not any("shadow" in each for each in told(f"on-{host}"))
    assert list(map(said, told(f"shadow-{host}"))) == list(map(said, told(f"on-{host}")))


@pytest.mark.parametrize("host", HOSTS)
def test_in_shadow_no_leave_to_change_anything_is_asked_for(milterd: Milterd, host: str) -> None:
    milterd.path = str(milterd.directory / f"shadow-{host}.sock")
    with milterd.mta() as mta:
        assert mta.negotiated.actions == Actions.SETSYMLIST
    milterd.path = str(milterd.directory / f"on-{host}.sock")
    with milterd.mta() as mta:
        assert mta.negotiated.actions == negotiation.actions(scripted.EVERYTHING)


@pytest.mark.parametrize(("name", "code"), [("on-native", b"451"), ("reject", b"554")])
def test_a_fault_is_answered_by_the_policy_and_logged_with_its_line(
    milterd: Milterd, name: str, code: bytes
) -> None:
    for answer in ask(milterd, name, "raise", "exit", "none"):
        assert isinstance(answer.reply, m.ReplyCode)
        assert answer.reply.text.startswith(code)
        assert b"secret" not in answer.reply.text
    (accepted,) = ask(milterd, name, "accept")  # and the host goes on
    assert accepted.reply == m.Accept()
    failures = until(lambda: len(found := lines(milterd, "failure", name)) >= 3 and found)
    places = {each["at"] for each in failures}
    text = CASES.splitlines()
    assert f"{milterd.directory}/cases.py:{text.index('        raise SystemExit(3)') + 1}" in places


def test_a_fault_may_be_let_pass(milterd: Milterd) -> None:
    (answer,) = ask(milterd, "accept", "raise")
    assert answer.reply == m.Continue()
    assert answer.edits == ()


def test_one_that_takes_too_long_is_not_waited_for(milterd: Milterd) -> None:
    began = time.monotonic()
    (answer,) = ask(milterd, "reject", "slow:90")
    assert answer.reply.text.startswith(b"554 5.3.0")
    assert time.monotonic() - began < 60
    said = "no decision within 3.0 s"
    until(lambda: any(said in str(each) for each in lines(milterd, "failure", "reject")))
    (after,) = ask(milterd, "reject", "accept")  # another thread is free
    assert after.reply == m.Accept()


def test_an_edit_that_needs_does_not_name_is_a_fault(milterd: Milterd) -> None:
    (answer,) = ask(milterd, "reader", "nothing")
    assert answer.edits == ()
    assert answer.reply.text.startswith(b"451 4.3.0")
    (failure,) = until(lambda: lines(milterd, "failure", "reader"))
    assert failure["kind"] == "emit"


def test_a_changed_file_is_taken_and_a_broken_one_is_not(short_path: Path) -> None:
    path = put(short_path / "f.py", READER.replace("Need.HEADERS", "~Need(0)"))
    milterd = Milterd(short_path, "native")
    configure(milterd, f'[filter.own.f]\nmodule = "{path}"\n')
    try:
        milterd.start().ready()
        put(path, "needs = oops")
        milterd.send(1)
        (line,) = until(lambda: milterd.log("settings not taken, the old ones stay"), 30)
        assert f"{path}:1: found NameError" in line["reason"]
        assert ask(milterd, "f", "x")[0].edits[0].name == b"X-Not"
        put(path, READER.replace("Need.HEADERS", "~Need(0)").replace("X-Not", "X-New"))
        milterd.send(1)
        until(lambda: len(milterd.log("serving")) == 2, 30)
        until(lambda: ask(milterd, "f", "x")[0].edits[0].name == b"X-New")
    finally:
        milterd.close()
