"""Logins judged by Dovecot, over its auth client protocol (version 1)."""
