"""Training of the mask head, on the loop that all recipes share."""
