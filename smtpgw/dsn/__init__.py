"""Delivery status notifications (RFC 3461 to 3464, 6522, 6533).  Pure: values in, a mail out.

`report` holds the values and who wants to hear what, `envelope` reads the DSN parameters,
`text` makes foreign octets harmless, `words`, `fields` and `original` make the three parts,
and `build` puts them into one mail.  docs/notifications.md tells the postmaster's side.
"""
