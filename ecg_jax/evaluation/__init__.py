"""Predictions -> scores, tables and calibration."""
