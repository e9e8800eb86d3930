"""Loss terms: pure functions that return one value per person, [B], never a batch mean."""
