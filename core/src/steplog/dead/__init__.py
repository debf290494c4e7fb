"""Dead letters: what could not be read or applied, kept with its reason until somebody retries or drops it."""
