"""What is deployed: the student of a run without its head, exported and timed."""
