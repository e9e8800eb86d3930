"""A ``FitResult`` for people who look at it: in words, as a table, and over its photo."""
