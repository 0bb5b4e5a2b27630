"""The data order, a pure function of the position."""
