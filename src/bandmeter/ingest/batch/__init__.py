"""What every batch goes through, wherever it came from: cleaned, decoded, attributed, folded, placed."""
