"""Synthetic single-lead ECG as a TFDS dataset; nothing to download."""
