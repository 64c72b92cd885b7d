"""Reading pickles without running anything in them: one unpickler, with a list of allowed names per kind of file."""
