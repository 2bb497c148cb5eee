"""What is true of a view in words, and whether a caption says so."""
