"""One small file per dataset: `INFO` says what it is, `read` yields its structures in our units."""
