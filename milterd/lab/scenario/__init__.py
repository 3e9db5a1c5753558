"""Scenarios: dialogues with a milter as short text files, and what must come of them.

`parse` reads one, `format` writes one, `run` plays one, `report` says what came of
them.  The language: docs/lab/scenarios.md.
"""
