"""Annotators: our own captioner, an OpenAI-compatible server, or a local transformers model."""
