"""Mail of all kinds for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient

names = st.sampled_from([b"Received", b"received", b"Subject", b"SUBJECT", b"X-A", b"To"])
"""Few, so that edits often meet a field, and in more than one case."""

_ink = st.sampled_from([b"a", b"Z", b".", b":", b"\xe9", b"\xff", b"\x1b", b" ", b"\t", b"\x01"])
_fold = st.sampled_from([b"\r\n ", b"\r\n\t", b"\r\n \t "])
values = st.lists(st.one_of(_ink, _ink, _fold), max_size=12).map(b"".join)
"""What stands after a colon: 8-bit, odd white space and folds, also ones with nothing on them."""

fields = st.builds(
    HeaderField, names, values, st.sampled_from([b"", b" ", b"\t "]), hidden=st.booleans()
)
bodies = st.binary(max_size=40).map(BytesBody)
addresses = st.sampled_from([b"", b"a@example.net", b"b@example.net", b"A@example.net"])
arguments = st.sampled_from([(), (b"NOTIFY=NEVER",), (b"SIZE=1", b"RET=HDRS")])
recipients = st.builds(Recipient, addresses, arguments)
envelopes = st.builds(Envelope, addresses, arguments, st.lists(recipients, max_size=4).map(tuple))
mails = st.builds(
    Mail,
    envelope=envelopes,
    headers=st.lists(fields, max_size=8).map(tuple),
    body=bodies,
    separator=st.just(b"\r\n"),
)

header_edits = st.one_of(
    st.builds(AddHeader, names, values),
    st.builds(InsertHeader, st.integers(0, 12), names, values),
    st.builds(ChangeHeader, names, st.integers(0, 5), values),
)
envelope_edits = st.one_of(
    st.builds(AddRecipient, addresses, arguments),
    st.builds(DeleteRecipient, addresses),
    st.builds(ChangeSender, addresses, arguments),
)
edits = st.one_of(
    header_edits, header_edits, envelope_edits, st.builds(ReplaceBody, bodies),
    st.builds(Quarantine, st.just(b"seen")),
)  # fmt: skip

lines = st.lists(
    st.one_of(
        st.just(b""),
        st.sampled_from([b" fold", b"\t", b" ", b"Subject: x", b"X :y", b":", b"no field", b"."]),
        st.binary(max_size=20).map(lambda each: each.replace(b"\r", b"").replace(b"\n", b"")),
        st.sampled_from([b"bare\rreturn", b"X: bare\nfeed", b"X: last\r", b"\rX: first"]),
    ),
    max_size=12,
)
octets = lines.map(lambda each: b"".join(line + b"\r\n" for line in each))
"""Any text of lines that end in CRLF, header or not."""
