"""Studies: their schema, the cells of their sweeps, a rehearsal of each cell, and the jobs."""
