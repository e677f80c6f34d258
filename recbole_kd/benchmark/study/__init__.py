"""Studies: an open question as an experiment YAML, its run, and a page written from what it produced."""
