"""ViP-Bench (arXiv 2312.00784): questions about marked regions, judged by a language model."""
