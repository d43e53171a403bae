"""Kinds of site: what their units are, physically."""
