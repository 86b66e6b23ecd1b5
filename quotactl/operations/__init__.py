"""What can be done to a ledger, each in one transaction.

`consume` decides and counts, `refund` and `reserve` correct and hold; `batch`
is what they are made of. `administer` changes who may have how much,
`emergency` throws the switches, `apply` brings a policy file into force,
`close` ends days, `verify` checks the book.
"""
