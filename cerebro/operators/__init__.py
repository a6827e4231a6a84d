"""How: one physical operator per file; an operator cuts work into units."""
