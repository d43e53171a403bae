"""Finds plugins, checks what they offer, and knows what was found."""
