"""Who decides: procedures and people, through one set of commands."""
