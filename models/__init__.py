"""What the captioner is, how it is run, trained and judged. Importing this loads no framework."""
