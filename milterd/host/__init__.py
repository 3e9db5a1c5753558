"""Hosts: what stands between an MTA's milter socket and a pure filter.

Two hosts with one behaviour: :mod:`~milterd.host.libmilter` on Sendmail's library,
and :mod:`~milterd.host.native` on asyncio and :mod:`milterd.wire`.  docs/hosts.md
compares them, measured.
"""
