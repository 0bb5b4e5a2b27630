"""What many runs and models say together: ablations, and what models transfer."""
