"""The captioner: networks, runtimes, training and evaluation. Importing this loads no framework."""
