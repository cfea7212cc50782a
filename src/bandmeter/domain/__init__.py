"""The nouns and the laws. Standard library only; nothing here does I/O or reads a clock."""
