"""UniRES++ (arXiv 2504.01954): texts to masks of parts, things, several of them, or none."""
