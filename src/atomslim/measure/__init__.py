"""What a model is and does, in numbers: its description, parameters, accuracy and speed."""
