"""Nodes as a client sees them: find one, connect to it, ask it."""
