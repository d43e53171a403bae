"""Forward passes, and everything that is computed by them."""
