"""The objects of synthetic scenes: shapes, textures, colours and kinds."""
