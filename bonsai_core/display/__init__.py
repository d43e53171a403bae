"""What people see: text that is safe to print, and plots."""
