"""Where things rest: datasets, states, and the catalog of what happened."""
