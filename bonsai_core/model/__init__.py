"""Everything that touches the network: loading, its units, keep vectors on it, slicing, measuring."""
