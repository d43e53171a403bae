"""Adaptation: recovery after pruning by training, with distillation from the dense model."""
