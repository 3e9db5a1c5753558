"""Every message of the protocol, and whole conversations, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from milterd.core.mail import Family
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol, Stage

octets = st.binary(max_size=40)
text = octets.map(lambda each: each.replace(b"\0", b"?"))
index = st.integers(0, 0xFFFFFFFF)
args = st.lists(text, max_size=3).map(tuple)
macro_names = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz_{}", min_size=1, max_size=12), max_size=4
).map(tuple)
actions = st.integers(0, int(Actions.ALL)).map(Actions)
protocols = st.integers(0, int(Protocol.ALL)).map(Protocol)
macro_lists = st.dictionaries(st.sampled_from(Stage), macro_names, max_size=3)
macro_values = st.lists(st.tuples(text, text), max_size=4).map(tuple)

connects = st.one_of(
    st.builds(m.Connect, text),
    st.builds(
        m.Connect,
        text,
        st.sampled_from([Family.UNIX, Family.INET, Family.INET6]),
        st.integers(0, 65535),
        text.filter(lambda each: not each.lower().startswith(b"ipv6:")),
    ),
)
negotiations = st.builds(
    m.Negotiate,
    index,
    index.map(Actions),
    index.map(Protocol),
    macro_lists,
)
commands = st.one_of(
    negotiations,
    connects,
    st.builds(m.Helo, text),
    st.builds(m.MailFrom, text, args),
    st.builds(m.RcptTo, text, args),
    st.just(m.Data()),
    st.builds(m.Header, text, text),
    st.just(m.EndOfHeaders()),
    st.builds(m.BodyChunk, octets),
    st.builds(m.EndOfMessage, octets),
    st.builds(m.Unknown, text),
    st.just(m.Abort()),
    st.just(m.Quit()),
    st.just(m.QuitNewConnection()),
    st.builds(m.Macros, st.sampled_from(Command), macro_values),
)

smtp_replies = st.sampled_from(
    [
        m.ReplyCode(b"550 5.7.1 no"),
        m.ReplyCode(b"451 4.7.1 later"),
        m.ReplyCode(b"554-5.7.1 two\r\n554 5.7.1 lines"),
    ]
)
verdicts: st.SearchStrategy[m.Reply] = st.one_of(
    st.sampled_from([m.Continue(), m.Accept(), m.Reject(), m.TempFail(), m.Discard()]),
    smtp_replies,
)
edits: st.SearchStrategy[m.EditReply] = st.one_of(
    st.builds(m.AddHeaderReply, text, text),
    st.builds(m.InsertHeaderReply, index, text, text),
    st.builds(m.ChangeHeaderReply, index, text, text),
    st.builds(m.ReplaceBodyChunk, octets),
    st.builds(m.AddRcptReply, text),
    st.builds(m.AddRcptParReply, text, text),
    st.builds(m.DelRcptReply, text),
    st.builds(m.ChangeFromReply, text, text),
    st.builds(m.QuarantineReply, text),
)
replies: st.SearchStrategy[m.Reply] = st.one_of(
    verdicts,
    edits,
    st.sampled_from([m.Skip(), m.Progress(), m.ConnFail(), m.Shutdown()]),
    st.builds(m.ReplyCode, text),
)


@st.composite
def sessions(draw: st.DrawFn) -> list[m.CommandMessage]:
    """What an MTA would say in one session that every milter lets pass."""
    said: list[m.CommandMessage] = [draw(connects)]
    said += [m.Helo(each) for each in draw(st.lists(text, max_size=2))]
    for _ in range(draw(st.integers(0, 2))):
        said += draw(transactions())
    if draw(st.booleans()):
        said += [m.QuitNewConnection(), draw(connects), m.Helo(b"again")]
    return [*said, m.Abort(), m.Quit()]


@st.composite
def transactions(draw: st.DrawFn) -> list[m.CommandMessage]:
    """One message, whole or broken off somewhere."""
    said: list[m.CommandMessage] = [m.MailFrom(draw(text), draw(args))]
    if draw(st.booleans()):
        said.append(m.Unknown(b"XYZZY"))
    said += [m.RcptTo(each) for each in draw(st.lists(text, min_size=1, max_size=3))]
    said.append(m.Data())
    said += [m.Header(*each) for each in draw(st.lists(st.tuples(text, text), max_size=3))]
    said.append(m.EndOfHeaders())
    said += [m.BodyChunk(each) for each in draw(st.lists(octets, max_size=3))]
    said.append(m.EndOfMessage())
    keep = draw(st.integers(1, len(said)))
    return [*said[:keep], m.Abort()]


@st.composite
def fragments(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same octets in pieces, single octets often among them."""
    if draw(st.booleans()):
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
