"""Recordings: MCAP files that survive a kill and declare what is missing from them. docs/recording.md describes the format."""
