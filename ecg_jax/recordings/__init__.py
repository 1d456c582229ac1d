"""Recordings of users: files, a lead of one, windows of it. No JAX here."""
