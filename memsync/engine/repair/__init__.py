"""Rows from peer to peer: what the log cannot give, what differs, what was damaged."""
