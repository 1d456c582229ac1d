"""What the datasets have in common: classes, label versions, sets."""

CLASSES = ('N', 'A', 'O', '~')
"""The order of the rows and columns of every confusion matrix."""

LABEL_VERSIONS = ('v1', 'v2', 'v3')
"""Of the challenge's labels."""

SETS = ('train', 'validation', 'test')
"""Of each fold."""
