"""How words lie in memory, by term and by row, and what they lead to. Pure."""
