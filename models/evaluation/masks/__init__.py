"""`ureca eval masks`: how good masks of clicks, of boxes and of everything are."""
