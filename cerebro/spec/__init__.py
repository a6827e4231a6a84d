"""What the user says: frozen values, checked when they are made."""
