"""How a captioner is executed: one `Engine` protocol, one file per runtime."""
