"""Programs that run in a process of their own, maybe of another environment: each file stands alone."""

from pathlib import Path

RUNNERS = Path(__file__).parent
