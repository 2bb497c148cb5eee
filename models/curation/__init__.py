"""URECA's curation pipeline (arXiv 2504.05305, section 3): masks in, unique captions out.

Mask tree, candidates, views, short captions from the top down, long ones from the bottom up,
uniqueness, verification, export. Each stage takes a `CuratedPicture` and returns one.
"""
