"""The mask head: one pass over a picture, then masks for clicks, boxes and everything."""
