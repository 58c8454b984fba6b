"""Examining the way to a node hop by hop, and saying which one fails and what to do about it."""
