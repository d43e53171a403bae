"""Where work is spread: over the devices of this machine, or over a Ray cluster."""
