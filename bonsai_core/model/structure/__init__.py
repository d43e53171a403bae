"""What a model is made of: its layers, its linears, its unit table."""
