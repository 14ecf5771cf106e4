"""From text to tokens and back: the tokenizer and the chat template of a model directory."""
