"""Studies of token merging: the command line, runs, results, reports, the embedded models."""
