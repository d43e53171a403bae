"""Plans: a pruned checkpoint as what was done to its base, to be done again anywhere."""
