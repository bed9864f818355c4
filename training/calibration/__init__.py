"""What is fitted on a trained network's answers: its temperature, its marks' probabilities, the axes of its vectors."""
