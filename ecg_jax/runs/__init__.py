"""Writes, reads and checks the files in the folder of a run."""
