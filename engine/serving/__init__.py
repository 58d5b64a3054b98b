"""The HTTP API, the stream and the page."""
