"""Pix2Cap (arXiv 2501.13893): a caption for every query that a universal segmenter keeps."""
