"""Where frames come from while they are made: cameras, network streams, other processes."""
