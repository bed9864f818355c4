"""The loss of a run: classes, guidance of the attention, marks and their places, evidence at these places."""
