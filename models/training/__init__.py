"""How a captioner is trained: one recipe, readable from top to bottom (torch)."""
