"""A person's votes: the sheet they are given on, and what they mean."""
