"""The caption engine on its thread: batches in, caption events out."""
