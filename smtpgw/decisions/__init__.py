"""What was decided about clients and their mail, and why, kept for `smtpgw why`."""
