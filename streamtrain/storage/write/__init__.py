"""What writes data sets: shards, staging folders, ingest, predictions."""
