"""Units, files, memory and signals: helpers for every other folder; imports nothing above it."""
