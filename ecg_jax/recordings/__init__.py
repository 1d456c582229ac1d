"""Users' recordings: files, a lead, windows of it. No JAX here."""
