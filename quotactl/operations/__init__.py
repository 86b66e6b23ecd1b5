"""What can be done to a ledger, each in one transaction.

`consume` decides, counts and refunds, `reserve` holds; both are made of `batch`
(decisions), over `corrections` (what gives back), over `workspace` (what is loaded
and changed). `administer` changes who may have how much,
`emergency` throws the switches, `apply` brings a policy file into force,
`close` ends days, `verify` checks the book.
"""
