"""The embedded engine: `door` opens and queues, `book` loads and stores,
`queries` computes what reports show, `checks` what verify compares."""
