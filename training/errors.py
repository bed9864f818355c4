"""What can go wrong while training, as one tree.

TrainingError
├── RecipeError       the recipe has an unknown key or a value that makes no sense
├── DatasetError      a file of the data set is missing, damaged or contradictory
├── CheckpointError   a checkpoint cannot be written, read, or does not fit what was asked
└── Diverged          the loss is no longer a number; the last good checkpoint is kept
"""


class TrainingError(Exception):
    """Base of all: its message is meant for the person at the terminal."""


class RecipeError(TrainingError):
    """The recipe has an unknown key or a value that makes no sense."""


class DatasetError(TrainingError):
    """A file of the data set is missing, damaged or contradictory; the message names it."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, read, or does not fit what was asked."""


class Diverged(TrainingError):
    """The loss is no longer a number; the message says where, and the last good checkpoint is kept."""
