"""A package, so that none of this name that is installed is taken for it."""
