"""What is asked: a study's schema, its cells, their rehearsal, its jobs."""
