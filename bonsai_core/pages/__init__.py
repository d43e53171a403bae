"""Results as self-contained HTML pages: a run, an adaptation, several runs side by side."""
