"""Procedural tabletop worlds: labelled pictures and a demo clip made from nothing but a seed."""
