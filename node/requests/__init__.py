"""Requests of clients: dispatch, queries, replies and previews."""
