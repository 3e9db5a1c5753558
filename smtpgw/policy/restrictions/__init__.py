"""The restrictions of postconf(5), and two of our own: a function each, a module for each kind."""

from smtpgw.policy.restrictions import general, login, relaying, verification

__all__ = ["general", "login", "relaying", "verification"]
