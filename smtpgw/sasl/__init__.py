"""How clients log in: who judges it (RFC 4422), Dovecot or a file of passwords.

The edge speaks AUTH (:mod:`smtpgw.edge.auth`); here are its authenticators.
"""
