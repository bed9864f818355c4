"""How good a network is: accuracy, calibration, where its maps point, and the report."""
