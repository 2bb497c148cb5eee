"""`ureca-mllm`: URECA over a vision-language model of the package `transformers` (torch)."""
