"""The estimators, and the fit that they share."""
