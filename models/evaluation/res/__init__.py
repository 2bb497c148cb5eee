"""`ureca eval res`: texts to regions, measured. What is asked, what was answered, and figures."""
