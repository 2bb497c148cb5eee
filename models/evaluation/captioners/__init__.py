"""The captioners of an evaluation: models, baselines and files."""
