"""Events out: the queue, the publisher and the thread that owns all sockets."""
