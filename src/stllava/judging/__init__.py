"""Who is the better answer: judges, what they say, and how verdicts become preferences."""
