"""How captions are judged."""
