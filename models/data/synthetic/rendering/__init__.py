"""Pictures and clips of synthetic scenes."""
