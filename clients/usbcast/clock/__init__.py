"""Clocks: the offset between hosts, and time stamps without jitter."""
