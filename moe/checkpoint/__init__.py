"""Hugging Face safetensors directories, read and written tensor by tensor."""
