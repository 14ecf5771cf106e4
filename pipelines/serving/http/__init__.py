"""Routes, error bodies and server-sent events."""
