"""Turns predictions into scores, tables and calibration."""
