"""From structures and a teacher to a small, fast, validated model, in one command."""
