"""The messages of the protocol: events, frames, requests and their encoding."""
