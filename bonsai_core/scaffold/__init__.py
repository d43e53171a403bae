"""New plugins: complete packages to start from."""
