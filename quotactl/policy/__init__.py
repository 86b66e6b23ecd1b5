"""The pure part: values in, values out; no clock, no SQL, no terminal.

Read `window` (what a day is), `model` (what a policy is made of), `resolve`
(which ceilings apply to one user now), `burndown` (which grants pay), `decide`
(the one place where a request is allowed or denied). `notation` reads what
people write; `plan` compares two policies.
"""
