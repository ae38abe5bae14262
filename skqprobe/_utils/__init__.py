"""Utilities: scikit-learn compatibility, callbacks, optional imports, progress bars."""
