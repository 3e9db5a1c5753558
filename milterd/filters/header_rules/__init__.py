"""The rule language of the headers filter: rule files in TOML, read, compiled, run, and tried on
their own examples (docs/headers.md).
"""
