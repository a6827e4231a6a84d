"""Doing it: a pure scheduler, a thin executor, and the record of what happened."""
