"""What a model is and how accurate it is: descriptions, errors against labels, comparisons."""
