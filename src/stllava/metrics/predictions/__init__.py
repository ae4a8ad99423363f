"""Answers of any model, in anyone's file: read, and joined with the questions they answer."""
