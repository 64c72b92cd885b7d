"""A model at work: predictions for files, calculators and packages."""
