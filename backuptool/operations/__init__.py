"""One verb a file: snapshot, restore, prune, check, listing. They use storage and tree, and never each other."""
