"""Output files that appear under their names when they are complete."""
