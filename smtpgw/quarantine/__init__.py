"""Mail that a milter wants kept until somebody has looked at it: in, out, and at an end.

It stands in the queue's store (:mod:`smtpgw.queue.quarantine`); docs/quarantine.md says what a
postmaster sees of it.
"""
