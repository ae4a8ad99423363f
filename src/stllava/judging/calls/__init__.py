"""Calls that are paid: the ledger and its purse, budgets, estimates, batches."""
