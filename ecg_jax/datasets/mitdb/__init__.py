"""MIT-BIH Arrhythmia Database, in windows, as a TFDS dataset."""
