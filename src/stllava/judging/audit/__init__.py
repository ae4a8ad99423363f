"""A judge's habits, how far judges agree, and how far they agree with experts."""
