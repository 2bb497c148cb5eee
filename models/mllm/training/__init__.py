"""URECA's two-stage recipe for `ureca-mllm`: mask modules first, LoRA second (torch)."""
