"""What a model costs: FLOPs, time and memory."""
