"""Reading pickles without running anything in them: one unpickler, given a list of names by whoever knows the files."""
