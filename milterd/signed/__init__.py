"""What a mail's signatures cover, and what edits would do to them: all of it pure.

DKIM (RFC 6376), ARC (RFC 8617), S/MIME (RFC 8551), OpenPGP (RFC 3156, RFC 9580).
"""
