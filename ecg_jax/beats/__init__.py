"""Heartbeats of a recording: where they are, and what they tell."""
