"""What a run leaves in its folder: written, read and checked."""
