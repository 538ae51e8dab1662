"""Questions: what there is, where it is, how it was and in what it differs. Nothing is changed."""
