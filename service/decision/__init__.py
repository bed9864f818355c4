"""From probabilities to decisions: known or not, sets, priors."""
