"""The rules of the MTAs that the lab can play: `RULES` by name."""

from __future__ import annotations

from collections.abc import Mapping

from milterd.lab.mta_rules import postfix, sendmail
from milterd.lab.mta_rules.rules import Outcome, Rules

__all__ = ["RULES", "Outcome", "Rules"]

RULES: Mapping[str, Rules] = {each.name: each for each in (postfix.RULES, sendmail.RULES)}
"""Postfix's are held against a running one, Sendmail's are from its source and documents."""
