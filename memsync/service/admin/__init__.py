"""What administrators ask for: keys, organisations, the members of the cell."""
