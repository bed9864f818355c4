"""The errors of training, as one tree.

TrainingError
├── RecipeError       the recipe has an unknown key or an invalid value
├── DatasetError      a file of the data set is missing, damaged or contradictory
├── CheckpointError   a checkpoint cannot be written, read, or does not fit the request
└── Diverged          the loss is no longer a number; the last good checkpoint is kept
"""


class TrainingError(Exception):
    """Base of all; the message is for the user at the terminal."""


class RecipeError(TrainingError):
    """The recipe has an unknown key or an invalid value."""


class DatasetError(TrainingError):
    """A file of the data set is missing, damaged or contradictory; the message names it."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, read, or does not fit the request."""


class Diverged(TrainingError):
    """The loss is no longer a number; the message names epoch and step, and the last good checkpoint is kept."""
