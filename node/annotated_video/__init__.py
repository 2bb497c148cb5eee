"""The annotated video of `ureca run --render`: drawn and written on a thread of its own."""
