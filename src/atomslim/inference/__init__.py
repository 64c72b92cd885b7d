"""Using a model: predictions for files, calculators and packages."""
