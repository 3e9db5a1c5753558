"""Fuzz targets of the policy protocol: whatever a service or a Postfix sends is read the same in
any pieces, is bounded, and becomes facts or is refused.

`python tests/fuzz/policy_targets.py NAME` runs one under atheris, where that is installed.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from smtpgw.delegation import codec
from smtpgw.delegation.service import PolicyOptions, parse
from smtpgw.policy.attributes import attributes
from smtpgw.policy_facts import facts
from tests.fuzz.driver import Target, run


def _read(pieces: list[bytes]) -> tuple[list[dict[str, str]], bool]:
    """All that is read, and whether it ended malformed."""
    reader, found = codec.Reader(), []
    try:
        for each in pieces:
            reader.feed(each)
            while (one := reader.next()) is not None:
                found.append(one)
    except codec.Malformed:
        return found, True
    return found, False


def fuzz_policy(data: bytes) -> None:
    """Reader: the pieces do not matter, and what was read is written and read the same again."""
    whole = _read([data])
    bytewise = _read([data[each : each + 1] for each in range(len(data))])
    assert bytewise == whole
    for each in whole[0]:
        assert len(each) <= codec.ATTRIBUTES
        safe = {name: codec.safe(value) for name, value in each.items()}
        assert _read([codec.encode(each)]) == ([safe], False)
        assert "\n" not in codec.action({"action": each.get("action", "")})


def fuzz_policy_facts(data: bytes) -> None:
    """facts: any request is one, and what is told of it can be sent on."""
    for each in _read([data])[0]:
        found = facts(each, "fuzz")
        again = _read([codec.encode(attributes(found))])
        assert len(again[0]) == 1
        assert again[0][0]["request"] == "smtpd_access_policy"


def fuzz_policy_service(data: bytes) -> None:
    """parse: a service, or ValueError that says what was expected."""
    with contextlib.suppress(ValueError):
        found = parse(data.decode("utf-8", "replace"), PolicyOptions(), "/var/spool")
        assert found.path or 0 < found.port < 65536
        assert found.options.timeout > 0
        assert found.options.try_limit > 0


TARGETS: dict[str, Target] = {
    "policy": fuzz_policy,
    "policy_facts": fuzz_policy_facts,
    "policy_service": fuzz_policy_service,
}


if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
