"""What a benchmark answer is worth: words for open questions, a verdict for closed ones."""
