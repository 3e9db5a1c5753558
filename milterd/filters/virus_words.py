"""What a virus filter says of a mail that is not clean."""

from __future__ import annotations

from milterd.ports.scanner import (
    Infected,
    ScanFact,
    TooLarge,
    Unavailable,
    Unscannable,
    printable,
)


def words(facts: ScanFact) -> tuple[str, str]:
    """What log and header say, and what the sender hears."""
    match facts:
        case Infected(signature):
            name = printable(signature)
            return name, f"Message refused: infected with {name}"
        case Unscannable(why, text):
            said = f"{why}: {printable(text)}" if text else why
            return said, f"Message cannot be scanned for viruses: {why}"
        case TooLarge(size, limit):
            said = f"{size} octets, limit {limit}"
            return said, f"Message too large to scan for viruses, limit {limit}"
        case Unavailable(why, text):
            return (f"{why}: {printable(text)}" if text else why), "Virus scanner unavailable"
    raise TypeError(f"{facts} is no trouble")


def filled(text: str, **values: str) -> str:
    """A text of the settings with its placeholders replaced."""
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", value)
    return text
