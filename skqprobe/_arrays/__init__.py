"""Arrays: blocks of X, arrays on devices, limits of magnitude."""
