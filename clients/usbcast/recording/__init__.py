"""Recordings: MCAP files that survive a kill and say themselves what is missing. docs/recording.md describes the format."""
