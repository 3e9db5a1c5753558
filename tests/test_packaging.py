"""What packaging/ promises: hardened units, users and directories, and sockets that a chrooted
smtpd reaches."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.postfix import Postfix
from tests.peers.process import directory, program

TOP = Path(__file__).parents[1]
PACKAGING = TOP / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda each: each.stem)
def test_units_are_hardened(unit: Path) -> None:
    command = [program("systemd-analyze", "systemd"), "security", "--offline=true", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert exposure, said
    assert float(exposure[1]) < 2.0, said


@pytest.mark.parametrize("unit", UNITS, ids=lambda each: each.stem)
def test_units_are_written_rightly(unit: Path, tmp_path: Path) -> None:
    """systemd finds nothing to say of them once the program is there."""
    text = unit.read_text()
    started = re.search(r"^ExecStart=(\S+) (.*)$", text, re.MULTILINE)
    assert started
    copy = tmp_path / unit.name
    copy.write_text(text.replace(started[1], "/bin/true"))
    command = [program("systemd-analyze", "systemd"), "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about_us = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert not about_us


@pytest.mark.parametrize("unit", UNITS, ids=lambda each: each.stem)
def test_units_run_a_command_that_there_is(unit: Path) -> None:
    started = re.search(r"^ExecStart=/opt/gatepost/bin/(\w+) (\w+) ", unit.read_text(), re.M)
    assert started
    command = [sys.executable, "-m", started[1], started[2], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOP, check=False)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


def test_users_and_directories_for_a_chrooted_postfix(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.fail("systemd-sysusers is not installed: `make test` installs it (package systemd)")
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "group").write_text("root:x:0:\npostfix:x:106:\n")
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (tmp_path / "var/spool/postfix").mkdir(parents=True)
    for tool, kind in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
        command = [tool, f"--root={tmp_path}", str(PACKAGING / kind / "gatepost.conf")]
        if tool == "systemd-tmpfiles":
            command.insert(1, "--create")
        subprocess.run(command, check=True, capture_output=True)
    users = dict(line.split(":")[0:3:2] for line in (etc / "passwd").read_text().splitlines())
    sockets = (tmp_path / "var/spool/postfix/milterd").stat()
    assert stat.S_IMODE(sockets.st_mode) == 0o2750
    assert (sockets.st_uid, sockets.st_gid) == (int(users["milterd"]), 106)
    keys = (tmp_path / "etc/gatepost/keys").stat()
    assert stat.S_IMODE(keys.st_mode) == 0o700
    assert "milterd:x:" in (etc / "group").read_text()
    assert re.search(r"^milterd:.*\bsmtpgw$", (etc / "group").read_text(), re.MULTILINE)


def test_a_socket_gets_the_directory_s_group_without_membership() -> None:
    """milterd's user is in no group of Postfix's; the set-group-ID directory is enough."""
    with directory("group") as path:
        shutil.chown(path, "nobody", "postfix")
        path.chmod(0o2750)
        code = (
            "import os; from milterd.base import sockets\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"address = sockets.parse('unix:{path}/x.sock')\n"
            "sockets.listen(address, 0o660, '', 'postfix')\n"
            "found = os.stat(address.path); print(oct(found.st_mode & 0o777), found.st_gid)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["0o660", str(path.stat().st_gid)]


def test_postfix_takes_the_snippet(postfix: Postfix) -> None:
    lines = (PACKAGING / "postfix/main.cf").read_text().splitlines()
    wanted = dict(line.split(" = ", 1) for line in lines if line and not line.startswith("#"))
    postfix.set(wanted)
    said = postfix.command("postconf", *wanted)
    assert dict(line.split(" = ", 1) for line in said.splitlines()) == wanted
    assert not postfix.troubles()
    paths = re.findall(r"unix:(\S+?\.sock)", wanted["smtpd_milters"])
    assert len(paths) == 3
    assert all(not each.startswith("/") for each in paths)


def test_the_tests_of_a_file_share_a_process(request: pytest.FixtureRequest) -> None:
    """Else what a file starts is started by each: pytest-xdist tells groups by these names."""
    if hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@tests/test_packaging.py")
