"""`ureca-mllm`: URECA on a vision-language model of the package `transformers` (torch)."""
