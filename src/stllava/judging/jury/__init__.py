"""Several judges: taking turns, one verdict of theirs, how many they are worth."""
