"""What settings may be: bounded numbers, usable names, recipes as strict YAML."""
