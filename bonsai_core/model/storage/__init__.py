"""Where weights are stored: in memory, on other devices, on disk."""
