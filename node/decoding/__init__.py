"""All image decoders; untrusted images are decoded in a process of their own."""
