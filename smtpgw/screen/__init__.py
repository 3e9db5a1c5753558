"""Clients that are looked at before they may speak: postscreen(8) within one process."""
