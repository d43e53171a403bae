"""The commands of `bonsai`, by subject. Everything slow is imported inside the command that needs it."""
