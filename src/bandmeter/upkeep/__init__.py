"""What an operator does to a data folder as a whole: bring it up to date, back it up, restore it."""
