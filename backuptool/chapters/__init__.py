"""The chapters of Repository: what goes beyond the five verbs, by what it is good for. Each method is one call."""
