"""Whether the physics still holds: checks of consistency, solids, molecules and dynamics, with a bar for each."""
