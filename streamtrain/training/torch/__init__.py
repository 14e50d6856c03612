"""The torch engine: eager, compiled and captured steps, optimizers, the copy of rows to a GPU."""
