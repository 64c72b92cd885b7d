"""Figures, tables and pages, made from plain results."""
