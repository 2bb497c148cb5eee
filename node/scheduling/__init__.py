"""Which regions are captioned next: pure decisions, without threads and sockets."""
