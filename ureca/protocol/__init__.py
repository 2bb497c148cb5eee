"""What crosses the wire: events, frames, requests and their encoding."""
