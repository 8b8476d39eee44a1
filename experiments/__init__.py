"""Studies of token merging: the command line, the runner, the report, the embedded model."""
