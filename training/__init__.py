"""The offline training module: data sets, the guided-attention training loop, evaluation and export."""
