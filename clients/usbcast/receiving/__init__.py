"""Receiving one stream: channels, continuity, and the events that the application sees."""
