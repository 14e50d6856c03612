"""Tables whose rows are not simply all rows of their files: Delta, Iceberg, Hudi, DuckDB."""
