"""The milter protocol, versions 2 to 6, for both roles, without a socket.

Objects here take octets and give events, and take messages and give octets; they
never wait, read a clock or log.  :class:`~milterd.wire.mta.MtaConnection` plays
the MTA, :class:`~milterd.wire.milter.MilterConnection` the milter; each checks
every move of its own side and of its peer against the tables in
:mod:`milterd.wire.states`.
"""
