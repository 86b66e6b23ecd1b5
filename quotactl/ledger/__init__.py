"""The ledger's own values: what is asked, what is answered, what is written.

`values` holds requests and answers, `entries` the immutable facts and the
changes that one transaction makes, `engine` the protocol that every storage
engine fulfils.
"""
