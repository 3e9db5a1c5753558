"""Any scenario, as actions that `parse` gives back from what `format` writes."""

from __future__ import annotations

from hypothesis import strategies as st

from milterd.core.mail import Family
from milterd.lab.scenario import steps as s
from milterd.wire import messages as m

odd = st.sampled_from([b"a b", b' "x" ', b"/x/", b"${a}", b"\r\n\t", b"#"])
some = st.binary(min_size=1, max_size=12) | odd
octets = st.just(b"") | some
numbers = st.integers(0, 0xFFFFFFFF)
seconds = st.floats(0, 3600)
parts = st.sampled_from(
    [b"a", b".*", b"[^/ ]", b"/", b"\\d", b"\\\\", b" ", b"(?:x|y)", b"\xe4", b"$"]
)
patterns = st.builds(s.Pattern, st.lists(parts, max_size=5).map(b"".join), st.booleans())
texts = some | patterns


def _connect(host: bytes, address: bytes, port: int) -> m.Connect:
    if address.startswith(b"unix:"):
        return m.Connect(host, Family.UNIX, 0, address[5:])
    return m.Connect(host, Family.INET6 if b":" in address else Family.INET, port, address)


addresses = octets | st.sampled_from([b"192.0.2.1", b"2001:db8::1", b"unix:/run/x"])
args = st.lists(octets, max_size=2).map(tuple)
events = st.one_of(
    st.sampled_from(list(s.BARE.values())),
    st.builds(m.Connect, octets),
    st.builds(_connect, octets, addresses, st.integers(0, 65535)),
    st.builds(m.Helo, octets),
    st.builds(m.MailFrom, octets, args),
    st.builds(m.RcptTo, octets, args),
    st.builds(m.Header, octets, octets),
    st.builds(m.EndOfMessage, octets),
    st.builds(m.Unknown, octets),
)
contents = st.builds(s.Octets, octets, st.integers(0, 5)) | st.builds(s.FromFile, some)
talks = st.one_of(
    st.builds(s.Say, events),
    st.builds(s.Offer, numbers, st.none() | numbers, st.none() | numbers),
    st.builds(s.Body, contents),
    st.builds(s.Message, contents),
    st.builds(s.Raw, some),
    st.builds(s.Packet, st.binary(min_size=1, max_size=1), octets),
    st.just(s.Drop()),
    st.just(s.HalfClose()),
)
macro_names = st.sampled_from([b"i", b"j", b"{auth_authen}", b"{x y}"])
macros = st.lists(st.tuples(macro_names, octets), max_size=3).map(tuple)
manners = st.one_of(
    st.builds(s.SetMacros, st.sampled_from(list(s.EVENTS.values())), st.none() | macros),
    st.builds(s.Sleep, seconds),
    st.builds(s.Within, seconds),
    st.builds(s.Stall, seconds),
    st.builds(s.Fragment, numbers),
)


def _header_edit(
    kind: str, index: int | None, field: tuple[bytes | None, s.Text | None], absent: bool
) -> s.EditIs:
    name, value = field
    index = index if kind in s.INDEXED_EDITS else None
    value = None if name is None or kind == "delete-header" else value
    return s.EditIs(kind, index, name, value, absent=absent)


def _address_edit(kind: str, name: bytes | None, args: tuple[bytes, ...], absent: bool) -> s.EditIs:
    return s.EditIs(kind, name=name, args=args or None if name is not None else None, absent=absent)


fields = st.tuples(st.none() | some | st.just(b"12"), st.none() | octets | patterns)
edits = st.one_of(
    st.builds(
        _header_edit, st.sampled_from(s.HEADER_EDITS), st.none() | numbers, fields, st.booleans()
    ),
    st.builds(
        _address_edit, st.sampled_from(s.ADDRESS_EDITS), st.none() | octets, args, st.booleans()
    ),
    st.builds(
        s.EditIs,
        st.sampled_from(["replace-body", "quarantine"]),
        value=st.none() | texts,
        absent=st.booleans(),
    ),
)
fields_of_agreement = st.sampled_from(["actions", "protocol"])
stages = st.sampled_from(list(s.STAGES.values()))
agreements = st.one_of(
    st.builds(s.VersionIs, numbers),
    st.builds(s.FlagsAre, fields_of_agreement, numbers),
    st.builds(s.FlagsAre, fields_of_agreement, st.none(), st.integers(1, 255), st.integers(0, 9)),
    st.builds(s.FlagsAre, fields_of_agreement, st.none(), st.just(0), st.integers(1, 9)),
    st.builds(s.MacrosAre, stages, st.none() | args | st.just((b"default",))),
)
wishes = st.one_of(
    agreements,
    edits,
    st.lists(st.sampled_from(list(s.ANSWERS)), min_size=1, max_size=3).map(
        lambda names: s.AnswerIs(tuple(names))
    ),
    st.builds(
        s.ReplyIs,
        st.sampled_from(["550", "4xx", "45x"]),
        st.sampled_from(["", "5.7.1", "4.0.99"]),
        st.none() | texts | st.just(b"5.7.1 odd"),
    ),
    st.builds(s.NoEdit, st.booleans()),
    st.builds(s.Silence, seconds),
    st.builds(s.Broken, st.none() | patterns),
    st.builds(s.Violation, st.none() | patterns, st.booleans()),
    st.builds(s.PacketIs, st.binary(min_size=1, max_size=1), st.none() | octets | patterns),
    st.sampled_from([s.Nothing(), s.NoAnswer(), s.ProgressCame(), s.Closed()]),
)
beginnings = st.one_of(
    st.just(()),
    st.tuples(st.builds(s.Socket, octets)),
    st.tuples(st.builds(s.Socket, octets), st.builds(s.Start, st.tuples(octets, octets))),
)
scenarios = st.builds(
    lambda first, talk, rest: (*first, talk, *rest),
    beginnings,
    talks,
    st.lists(talks | manners | st.builds(s.Expect, wishes), max_size=6),
)
