"""The torch engine: eager, compiled and captured steps, optimizers, rows on a device."""
