"""Finds plugins, checks what they offer, and looks it up by name."""
