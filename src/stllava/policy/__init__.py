"""Models that see, answer and ask: architecture, loading, adapters. Needs torch."""
