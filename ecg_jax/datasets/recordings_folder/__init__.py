"""A user's own recordings and their table of labels, as a TFDS dataset."""
