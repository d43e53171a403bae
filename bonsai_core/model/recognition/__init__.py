"""Families that nobody declared, and the laws that prove a declaration."""
