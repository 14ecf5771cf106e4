"""Requests and replies of the OpenAI API, as typed values."""
