"""What a person reads of an evaluation: the report, one HTML file, and its summary in a model card."""
