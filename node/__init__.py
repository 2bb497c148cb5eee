"""The realtime process: frames in, captions of tracked regions out."""
