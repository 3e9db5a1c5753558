"""Delivery: a mail and some recipients go in, one outcome for each recipient comes out."""
