"""What lies in the models folder: versions of models, tables of priors, weights beside a model."""
