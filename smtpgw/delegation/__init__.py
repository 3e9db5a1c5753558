"""Postfix's policy protocol (SMTPD_POLICY_README): who is asked, and who answers."""
