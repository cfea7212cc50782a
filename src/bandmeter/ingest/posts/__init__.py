"""Bodies that were sent to us: taken apart, handed to the one process that counts, each counted once."""
