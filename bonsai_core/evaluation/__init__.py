"""Evaluation outside a run: perplexity, tasks, speed, memory and size of models side by side."""
