"""What came out: rows, means, comparisons, tables."""
