"""Prepared records -> batches on the device."""
