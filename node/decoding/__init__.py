"""From bytes to pixels: every decoder of images, in a process of its own where strangers send."""
