"""What both halves stand on: settings, logs, sockets, supervision, metrics.

Nothing here knows of mail, of milters or of SMTP, and nothing here imports
anything else of this project.
"""
