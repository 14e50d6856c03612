"""Words, files, memory and signals: what every other folder uses; imports nothing above it."""
