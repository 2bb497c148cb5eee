"""The embedded captioner `ureca-nano`: EfficientNet-Lite0, mask encoder, small language model
(torch).
"""
