"""CURVE keys, the allow-list and the authenticator of sockets."""
