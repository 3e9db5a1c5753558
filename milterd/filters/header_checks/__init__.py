"""Postfix's header_checks, mime_header_checks, nested_header_checks and body_checks, read as they
are and carried out as far as a milter can (header_checks(5), docs/headers.md).
"""
