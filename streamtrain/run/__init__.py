"""A run: prepare the data, pass over it, time it, confirm the winner; train, sweep, predict."""
