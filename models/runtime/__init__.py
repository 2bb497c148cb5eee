"""Runs a captioner: one `Engine` protocol, one file per runtime."""
