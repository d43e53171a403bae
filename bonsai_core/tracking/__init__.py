"""Sends what happens in a run to the tracker that its settings name."""
