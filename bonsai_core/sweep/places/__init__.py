"""Where the runs of a sweep are executed: the contract, `place.py`, and a file for each place."""
