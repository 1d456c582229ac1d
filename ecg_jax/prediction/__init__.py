"""Answers for recordings of users, by a run's finished folds."""
