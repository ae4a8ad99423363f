"""From a judge's reply to what it says, or to nothing: the ladder and its readings."""
