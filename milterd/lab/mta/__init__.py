"""Grades an MTA: its SMTP client on one side, its milter and its next hop on the others."""
