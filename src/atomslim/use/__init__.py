"""A model at work: predictions for files, and the ASE calculator."""
