"""DLC-Bench (Describe Anything, arXiv 2504.16072): detailed captions judged by questions."""
