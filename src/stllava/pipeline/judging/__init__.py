"""The judge stage: who is asked, what it costs, what is written."""
