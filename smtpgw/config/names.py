"""Settings with `$name` in them are looked at when they are read, not when mail needs them."""

from __future__ import annotations

import json

from pydantic import ValidationError

from milterd.base.settings import Table
from milterd.base.toml_file import Problem
from smtpgw.config.addresses import Addresses, Identity, Rewriting, Routing
from smtpgw.config.reception import Reception, expandable
from smtpgw.parameters import ParameterError


def problems(settings: Addresses) -> list[Problem]:
    """What is wrong in them once every name is replaced, by key.  What stands nowhere in the
    file has its default, and what is wrong there is so for another key's sake."""
    found: list[Problem] = []
    for model in (Identity, Rewriting, Routing, Reception):
        for name in sorted(settings.model_fields_set.intersection(expandable(model))):
            written = getattr(settings, name)
            if "$" in str(written):
                found += _looked_at(settings, model, name)
    return found


def _looked_at(settings: Addresses, model: type[Table], name: str) -> list[Problem]:
    key = f"smtpgw.{name}"
    try:
        text = settings.expanded(name)
    except ParameterError as error:
        return [Problem("settings", 0, key, error.found, error.expected, error.nearest)]
    try:
        model.model_validate({name: text})
    except ValidationError as errors:
        said = [str(each.get("ctx", {}).get("error") or each["msg"]) for each in errors.errors()]
        values = [json.dumps(each["input"]) for each in errors.errors()]
        return [
            Problem("settings", 0, key, value, each.removeprefix("expected "))
            for each, value in zip(said, values, strict=True)
        ]
    return []
