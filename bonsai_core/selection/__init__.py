"""From importances, exact costs and a budget to the units that stay."""
