"""From files of text to memory-mapped rows of tokens."""
