"""The measures of an evaluation."""
