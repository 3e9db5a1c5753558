"""What a mail's body is made of: whether that is beyond doubt, and what it may hold if not."""
