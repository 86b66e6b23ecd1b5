"""Storage engines: how a ledger is opened, and where all SQL lives."""
