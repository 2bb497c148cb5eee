"""The network: a vision-language model with a mask encoder and a shared prefix."""
