"""Back ends that run units."""
