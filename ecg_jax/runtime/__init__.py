"""Devices, processes, signals and files: what is not about ECGs."""
