"""What a step takes on a slice of chips that are not here: compiled ahead of time."""
