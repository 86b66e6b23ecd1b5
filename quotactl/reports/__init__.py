"""What the ledger can tell, as frozen values: computed here, rendered elsewhere."""
