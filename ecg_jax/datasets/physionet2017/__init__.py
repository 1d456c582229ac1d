"""PhysioNet/CinC Challenge 2017, training set, as a TFDS dataset."""
