"""Experiment grids: one configuration, many cells, tables and figures beside the paper's (arXiv 2504.19538)."""
