"""What a run will cost, and settings that fit it: before anything is spent."""
