"""Whether mail to an address would be delivered, as far as its own host says: verify(8)."""
