"""Procedural tabletop scenes: labelled images and a demo clip, made from a seed alone."""
