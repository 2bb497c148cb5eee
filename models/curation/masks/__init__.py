"""`ureca curate masks`: outlines for regions that have a box only, by teachers that must agree."""
