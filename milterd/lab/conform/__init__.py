"""The report card of a milter: many small checks, each on connections of its own.

`check` says what a check is, `talk` plays the MTA and holds each answer against the
protocol, `context` is what a check may use, `grade` runs them, `catalog` has them all.
"""
